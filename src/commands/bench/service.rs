//! Whole verifications over HTTPS against a server in a process of its own.

use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use image::{DynamicImage, RgbImage, imageops};
use indicatif::ProgressBar;
use serde_json::{Map, Value, json};

use super::percentile;
use crate::{
    commands::{
        api_client::{ApiClient, Photo},
        demo::jpeg,
        progress,
        throwaway_server::ThrowawayServer,
    },
    settings::FaceSettings,
};

/// Verifications before anything is measured.
const WARM_UP: usize = 40;
/// Verifications one after the other, for the latency.
const SEQUENTIAL_MAX: usize = 200;

pub struct Service {
    /// Sorted.
    latencies_ms: Vec<f64>,
    verifications_per_second: f64,
    verifications: usize,
    /// After that many verifications.
    resident_bytes: Option<u64>,
    /// After twice as many, the second half with pictures of several sizes.
    resident_bytes_doubled: Option<u64>,
}

impl Service {
    /// `photos[0]` is the one that latency and rate are measured with; all show the same person.
    pub async fn measure(face: &FaceSettings, photos: &[Photo], verifications: usize) -> Result<Self> {
        let spinner = progress::spinner("starting a server");
        let mut server = ThrowawayServer::start(face, &[])?;
        let client = server.ready().await?;
        let subject = client.create_subject("bench").await?;
        client.grant_consent(&subject).await?;
        client.enrol(&subject, &photos[0]).await?;
        spinner.finish_and_clear();

        // Every thread meets every size of picture once before anything is measured: what stays in memory after that is
        // what the server needs, and what comes on top of it later would be a leak.
        let at_once = std::thread::available_parallelism().map_or(1, usize::from) * 2;
        let bar = progress::counted("verifying over HTTPS", WARM_UP + 2 * verifications);
        load(&client, &subject, photos, WARM_UP.min(verifications), at_once, &bar).await?;

        let sequential = SEQUENTIAL_MAX.min(verifications.div_ceil(2));
        let mut latencies_ms = vec![];
        for _ in 0..sequential {
            latencies_ms.push(verify(&client, &subject, &photos[0]).await?);
            bar.inc(1);
        }
        latencies_ms.sort_by(f64::total_cmp);

        let parallel = verifications - sequential;
        let start = Instant::now();
        load(&client, &subject, &photos[..1], parallel, at_once, &bar).await?;
        let verifications_per_second = parallel as f64 / start.elapsed().as_secs_f64();
        let resident_bytes = server.resident_bytes();
        load(&client, &subject, photos, verifications, at_once, &bar).await?;
        let resident_bytes_doubled = server.resident_bytes();
        bar.finish_and_clear();
        Ok(Self { latencies_ms, verifications_per_second, verifications, resident_bytes, resident_bytes_doubled })
    }

    pub fn to_json(&self) -> Map<String, Value> {
        let members = [
            ("verification_p50_ms", json!(percentile(&self.latencies_ms, 0.5))),
            ("verification_p95_ms", json!(percentile(&self.latencies_ms, 0.95))),
            ("verifications_per_second", json!(self.verifications_per_second)),
            ("verifications", json!(self.verifications)),
            ("rss_bytes", json!(self.resident_bytes)),
            ("rss_bytes_doubled", json!(self.resident_bytes_doubled)),
        ];
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    pub fn to_text(&self) -> String {
        let megabytes =
            |bytes: Option<u64>| bytes.map_or("unknown".to_owned(), |bytes| format!("{} MB", bytes / 1_000_000));
        format!(
            "\nwhole verification over HTTPS, 640x480 JPEG\n  p50 {:>28.1} ms\n  p95 {:>28.1} ms\n  all cores {:>22.1} a second\n  \
             server's memory {:>19} after {}, {} after {}\n",
            percentile(&self.latencies_ms, 0.5),
            percentile(&self.latencies_ms, 0.95),
            self.verifications_per_second,
            megabytes(self.resident_bytes),
            self.verifications,
            megabytes(self.resident_bytes_doubled),
            2 * self.verifications,
        )
    }
}

/// So many verifications, a few at a time: enough to keep every core busy, not enough to be turned away.
async fn load(
    client: &ApiClient,
    subject: &str,
    photos: &[Photo],
    verifications: usize,
    at_once: usize,
    bar: &ProgressBar,
) -> Result<()> {
    stream::iter(photos.iter().cycle().take(verifications))
        .map(|photo| verify(client, subject, photo))
        .buffer_unordered(at_once)
        .try_for_each(|_| async {
            bar.inc(1);
            Ok(())
        })
        .await
}

/// Milliseconds on the wire.
async fn verify(client: &ApiClient, subject: &str, photo: &Photo) -> Result<f64> {
    let answer = client.verify(subject, photo).await?;
    let (body, took) = answer.map_err(|refusal| anyhow::anyhow!("a verification was refused: {refusal:?}"))?;
    anyhow::ensure!(body["decision"] == "match", "the enrolled photo did not match itself");
    Ok(took.as_secs_f64() * 1e3)
}

/// Sizes that cameras send: a webcam's, which is the one that is measured, and others upright and across.
const SIZES: [(u32, u32); 6] = [(640, 480), (480, 640), (1280, 720), (720, 1280), (1024, 768), (1920, 1080)];

pub fn photos(portrait: &DynamicImage) -> Result<Vec<Photo>> {
    SIZES.iter().map(|&(width, height)| photo(portrait, width, height)).collect()
}

/// The portrait in the middle of a picture of this size.
fn photo(portrait: &DynamicImage, width: u32, height: u32) -> Result<Photo> {
    let scaled = portrait.resize(width, height, imageops::FilterType::Triangle).to_rgb8();
    let mut canvas = RgbImage::from_pixel(width, height, image::Rgb([96, 96, 96]));
    let margin = |outer: u32, inner: u32| i64::from((outer - inner) / 2);
    imageops::overlay(&mut canvas, &scaled, margin(width, scaled.width()), margin(height, scaled.height()));
    jpeg(&DynamicImage::ImageRgb8(canvas), 90).context("cannot encode the benchmark's photo")
}
