//! The reader of uploads: whatever comes, in whatever pieces, it ends, and an image that it hands on is what was sent.
//!
//! The first byte chooses the type of the body, the second how long the pieces are; the rest is the body.
#![no_main]

use std::sync::LazyLock;

use actix_web::{FromRequest as _, dev::Payload, error::PayloadError, test::TestRequest, web::Bytes};
use futures_util::stream;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};
use velum::{
    domain::face::UploadedImage,
    http::upload::{Upload, VERIFICATION_OPTIONS},
};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().expect("a runtime"));

const TYPES: [&str; 4] = ["multipart/form-data; boundary=x", "image/jpeg", "application/octet-stream", "text/plain"];

fuzz_target!(|data: &[u8]| {
    let [kind, pieces, body @ ..] = data else { return };
    let kind = TYPES[usize::from(*kind) % TYPES.len()];
    let request = TestRequest::post().insert_header(("content-type", kind)).to_http_request();
    let chunks =
        body.chunks(usize::from(*pieces) + 1).map(|chunk| Ok::<_, PayloadError>(Bytes::copy_from_slice(chunk)));
    let chunks: Vec<_> = chunks.collect();
    let mut payload: Payload = Payload::Stream { payload: Box::pin(stream::iter(chunks)) };
    let read = RUNTIME.block_on(async {
        let upload = Upload::from_request(&request, &mut payload).await.expect("an upload begins with anything");
        upload.incoming(VERIFICATION_OPTIONS).face.await
    });
    let Ok(face) = read else { return };
    let image = face.image.expose_bytes();
    assert!((1..=UploadedImage::BYTES_MAX).contains(&image.len()));
    match kind.starts_with("multipart") {
        true => assert!(body.windows(image.len()).any(|window| window == image), "an image that nobody sent"),
        false => assert_eq!(image, body),
    }
});
