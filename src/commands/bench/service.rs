//! Whole verifications over HTTPS against a server in a process of its own.

use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use image::{DynamicImage, RgbImage, imageops};
use serde_json::{Map, Value, json};

use super::percentile;
use crate::{
    commands::{
        api_client::{ApiClient, Photo},
        demo::jpeg,
        local_server::LocalServer,
        progress,
    },
    settings::FaceSettings,
};

/// Verifications one after the other, for the latency.
const SEQUENTIAL_MAX: usize = 200;

pub struct Service {
    /// Sorted.
    latencies_ms: Vec<f64>,
    verifications_per_second: f64,
    verifications: usize,
    resident_bytes_halfway: Option<u64>,
    resident_bytes: Option<u64>,
}

impl Service {
    pub async fn measure(face: &FaceSettings, photo: &Photo, verifications: usize) -> Result<Self> {
        let spinner = progress::spinner("starting a server");
        let mut server = LocalServer::start(face)?;
        let client = server.ready().await?;
        let subject = client.create_subject("bench").await?;
        client.grant_consent(&subject).await?;
        client.enrol(&subject, photo).await?;
        spinner.finish_and_clear();

        let sequential = SEQUENTIAL_MAX.min(verifications.div_ceil(2));
        let bar = progress::counted("verifying over HTTPS", verifications);
        let mut latencies_ms = vec![];
        for _ in 0..sequential {
            latencies_ms.push(verify(&client, &subject, photo).await?);
            bar.inc(1);
        }
        latencies_ms.sort_by(f64::total_cmp);
        let resident_bytes_halfway = server.resident_bytes();

        // Enough in flight to keep every core busy, not enough to be turned away.
        let at_once = std::thread::available_parallelism().map_or(1, usize::from) * 2;
        let parallel = verifications - sequential;
        let start = Instant::now();
        stream::iter(0..parallel)
            .map(|_| verify(&client, &subject, photo))
            .buffer_unordered(at_once)
            .try_for_each(|_| async {
                bar.inc(1);
                Ok(())
            })
            .await?;
        let verifications_per_second = parallel as f64 / start.elapsed().as_secs_f64();
        bar.finish_and_clear();
        let resident_bytes = server.resident_bytes();
        Ok(Self { latencies_ms, verifications_per_second, verifications, resident_bytes_halfway, resident_bytes })
    }

    pub fn to_json(&self) -> Map<String, Value> {
        let members = [
            ("verification_p50_ms", json!(percentile(&self.latencies_ms, 0.5))),
            ("verification_p95_ms", json!(percentile(&self.latencies_ms, 0.95))),
            ("verifications_per_second", json!(self.verifications_per_second)),
            ("verifications", json!(self.verifications)),
            ("rss_bytes", json!(self.resident_bytes)),
            ("rss_bytes_halfway", json!(self.resident_bytes_halfway)),
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
            megabytes(self.resident_bytes_halfway),
            self.latencies_ms.len(),
            megabytes(self.resident_bytes),
            self.verifications,
        )
    }
}

/// Milliseconds on the wire.
async fn verify(client: &ApiClient, subject: &str, photo: &Photo) -> Result<f64> {
    let answer = client.verify(subject, photo).await?;
    let (body, took) = answer.map_err(|refusal| anyhow::anyhow!("a verification was refused: {refusal:?}"))?;
    anyhow::ensure!(body["decision"] == "match", "the enrolled photo did not match itself");
    Ok(took.as_secs_f64() * 1e3)
}

/// The portrait in the middle of a 640x480 picture, as a webcam would send it.
pub fn photo_640x480(portrait: &DynamicImage) -> Result<Photo> {
    let scaled = portrait.resize(640, 480, imageops::FilterType::Triangle).to_rgb8();
    let mut canvas = RgbImage::from_pixel(640, 480, image::Rgb([96, 96, 96]));
    let margin = |outer: u32, inner: u32| i64::from((outer - inner) / 2);
    imageops::overlay(&mut canvas, &scaled, margin(640, scaled.width()), margin(480, scaled.height()));
    jpeg(&DynamicImage::ImageRgb8(canvas), 90).context("cannot encode the benchmark's photo")
}
