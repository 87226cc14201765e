use super::helpers::{TestApp, each_database, photos, streamed};

#[tokio::test(flavor = "multi_thread")]
async fn enrolments_are_listed_and_deleted_one_by_one() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.consenting_subject().await;
        let path = format!("/v1/subjects/{subject}/enrolments");
        let first = client.enrol(&subject, photos::collins()).await.expect(201).id();
        let second = client.post_raw(&path, "application/octet-stream", photos::collins()).await.expect(201).id();

        let page = client.get(&format!("{path}?limit=1")).await.expect(200).json();
        assert_eq!((&page["data"][0]["id"], &page["has_more"]), (&second.as_str().into(), &true.into()));
        let cursor = page["next_cursor"].as_str().unwrap();
        let rest = client.get(&format!("{path}?limit=1&cursor={cursor}")).await.expect(200).json();
        assert_eq!((&rest["data"][0]["id"], &rest["has_more"]), (&first.as_str().into(), &false.into()));
        assert!(rest["next_cursor"].is_null());

        client.delete(&format!("{path}/{first}")).await.expect(204);
        client.delete(&format!("{path}/{first}")).await.expect_problem(404, "not_found");
        let left = client.get(&path).await.expect(200).json();
        assert_eq!(left["data"].as_array().unwrap().len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_has_at_most_five_enrolments() {
    each_database(|app| async move {
        let client = app.client().await;
        let subject = client.consenting_subject().await;
        for _ in 0..5 {
            client.enrol(&subject, photos::hopper()).await.expect(201);
        }
        client.enrol(&subject, photos::hopper()).await.expect_problem(409, "enrolment_limit_reached");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_without_exactly_one_good_face_is_refused_with_its_reason() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    client.enrol(&subject, photos::nobody()).await.expect_problem(422, "no_face");
    client.enrol(&subject, photos::two_faces()).await.expect_problem(422, "multiple_faces");
    client.enrol(&subject, b"not an image at all".to_vec()).await.expect_problem(415, "image_unsupported_format");
    let truncated = photos::hopper()[..2000].to_vec();
    client.enrol(&subject, truncated).await.expect_problem(422, "image_undecodable");

    let path = format!("/v1/subjects/{subject}/enrolments");
    let largest =
        client.post_form(&path, photos::two_faces(), &[("on_multiple_faces", "largest")]).await.expect(201).json();
    assert_eq!(largest["quality"]["faces_seen"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_no_upload_is_refused() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    let path = format!("/v1/subjects/{subject}/enrolments");
    let hopper = photos::hopper;

    client.post_raw(&path, "image/gif", hopper()).await.expect_problem(415, "unsupported_media_type");
    client.post_raw(&path, "text/plain", "a path or a URL").await.expect_problem(415, "unsupported_media_type");
    client.post_empty(&path).await.expect_problem(415, "unsupported_media_type");
    client.post_raw(&path, "image/jpeg", "").await.expect_problem(400, "image_missing");
    client.post_raw(&path, "multipart/form-data", "x").await.expect_problem(400, "malformed_multipart");
    let torn = "--b\r\nContent-Disposition: form-data; name=\"image\"\r\n\r\nhalf an";
    client.post_raw(&path, "multipart/form-data; boundary=b", torn).await.expect_problem(400, "malformed_multipart");
    let imageless = "--b\r\nContent-Disposition: form-data; name=\"on_multiple_faces\"\r\n\r\nlargest\r\n--b--\r\n";
    client.post_raw(&path, "multipart/form-data; boundary=b", imageless).await.expect_problem(400, "image_missing");

    let unknown = client.post_form(&path, hopper(), &[("threshold", "0.1")]).await;
    assert_eq!(unknown.expect_problem(422, "validation_failed").json()["errors"][0]["pointer"], "/threshold");
    let rate = client.post_form(&path, hopper(), &[("false_match_rate", "1e-3")]).await;
    rate.expect_problem(422, "validation_failed");
    let twice = format!("{path}?on_multiple_faces=largest&on_multiple_faces=refuse");
    client.post_raw(&twice, "image/jpeg", hopper()).await.expect_problem(422, "validation_failed");

    let compressed = client.request(reqwest::Method::POST, &path).header("content-type", "image/jpeg");
    let compressed = compressed.header("content-encoding", "gzip").body(hopper());
    client.send(compressed).await.expect_problem(415, "unsupported_media_type");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_beyond_the_limit_is_refused_announced_or_not() {
    let app = TestApp::start().await;
    let client = app.client().await;
    let subject = client.consenting_subject().await;
    let path = format!("/v1/subjects/{subject}/enrolments");
    let too_large = vec![0xff; 10_000_001];
    client.post_raw(&path, "image/jpeg", too_large.clone()).await.expect_problem(413, "image_too_large");
    client.post_form(&path, too_large.clone(), &[]).await.expect_problem(413, "image_too_large");

    let pieces: Vec<_> = too_large.chunks(100_000).map(<[u8]>::to_vec).collect();
    let unannounced = streamed(futures_util::stream::iter(pieces));
    client.post_raw(&path, "image/jpeg", unannounced).await.expect_problem(413, "image_too_large");
}
