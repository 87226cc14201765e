//! `velum serve` as an operator runs it.

use std::time::Duration;

use futures_util::{StreamExt as _, future, stream};
use tokio::sync::oneshot;

use super::helpers::{Process, photos, streamed};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_told_to_stop_answers_the_upload_that_is_on_its_way_and_ends_with_0() {
    let data = tempfile::tempdir().unwrap();
    let mut process = Process::start(data.path());
    let client = process.client().await;
    let subject = client.consenting_subject().await;

    let photo = photos::collins();
    let (first, rest) = (photo[..1_000].to_vec(), photo[1_000..].to_vec());
    let (told, telling) = oneshot::channel::<()>();
    let rest = stream::once(async move {
        telling.await.unwrap();
        rest
    });
    let body = streamed(stream::once(future::ready(first)).chain(rest));
    let enrolling = {
        let path = format!("/v1/subjects/{subject}/enrolments");
        let client = client.clone();
        tokio::spawn(async move { client.post_raw(&path, "image/png", body).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    process.signal("-TERM");
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    told.send(()).unwrap();
    enrolling.await.unwrap().expect(201);
    assert!(process.ended().await.success());
}
