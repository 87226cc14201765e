//! `velum demo`: two real people, enrolled, matched on ciphertexts and told apart, through the front door.

use std::{io::Cursor, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use image::{DynamicImage, Rgb, RgbImage, codecs::jpeg::JpegEncoder};
use serde_json::Value;

use super::{
    api_client::{ApiClient, Photo},
    bench::{Workshop, stages::Stages},
    progress,
    throwaway_server::ThrowawayServer,
};
use crate::settings::FaceSettings;

#[derive(Debug, clap::Args)]
pub struct DemoArgs {
    /// Folder with the two portraits
    #[arg(long, value_name = "DIR", default_value = "samples")]
    samples: PathBuf,
}

pub(super) const COLLINS: &str = "eileen_collins.png";
pub(super) const HOPPER: &str = "grace_hopper.jpg";
/// Repetitions of each stage in the closing table.
const STAGE_RUNS: usize = 10;

pub async fn run(args: &DemoArgs, face: &FaceSettings) -> Result<()> {
    let collins = open(&args.samples.join(COLLINS))?;
    let hopper = open(&args.samples.join(HOPPER))?;

    let spinner = progress::spinner("starting a server: making keys, loading models");
    let mut server = ThrowawayServer::start(face, &[])?;
    let client = server.ready().await?;
    spinner.finish_and_clear();
    println!("A server runs on this machine over HTTPS, with keys of its own that it has just made.\n");

    let (subject, consent) = enrol(&client, &collins).await?;
    let mut verified = vec![];
    println!("\nVerifying against Eileen Collins's encrypted template:");
    for (what, photo) in versions(&collins)? {
        verified.push(expect(&client, &subject, what, &photo, "match").await?);
    }
    verified.push(expect(&client, &subject, "Grace Hopper", &jpeg(&hopper, 90)?, "no_match").await?);

    println!("\nWithdrawing consent:");
    client.withdraw_consent(&subject, &consent).await?;
    let refusal = client.verify(&subject, &jpeg(&collins, 90)?).await?.err().context("verified without consent")?;
    println!("  the same photo again          refused: {} ({})", refusal.code, refusal.status.as_u16());

    println!("\nErasing the subject:");
    client.erase(&subject).await?;
    let refusal = client.subject(&subject).await?.err().context("the subject is still there")?;
    println!("  asking for the subject        {} ({})", refusal.code, refusal.status.as_u16());

    print_summary(&verified, &server);
    drop(server);
    println!("\nWhere the time of a verification went, measured again without the network:");
    let workshop = Workshop::open(face)?;
    print!(
        "{}",
        Stages::measure(&workshop.pipeline, &workshop.keys, &jpeg(&collins, 90)?.bytes, STAGE_RUNS)?.to_text()
    );
    Ok(())
}

async fn enrol(client: &ApiClient, portrait: &DynamicImage) -> Result<(String, String)> {
    let subject = client.create_subject("eileen-collins").await?;
    println!("subject    {subject}");
    let refusal = client.verify(&subject, &jpeg(portrait, 90)?).await?.err().context("verified without consent")?;
    println!("           before any consent: refused, {} ({})", refusal.code, refusal.status.as_u16());
    let consent = client.grant_consent(&subject).await?;
    println!("consent    {consent}");
    let enrolment = client.enrol(&subject, &jpeg(portrait, 90)?).await?;
    println!("enrolment  {enrolment}");
    Ok((subject, consent))
}

/// Verifies and insists on the answer: a demonstration that cannot fail shows nothing.
async fn expect(
    client: &ApiClient,
    subject: &str,
    what: &str,
    photo: &Photo,
    decision: &str,
) -> Result<(Value, Duration)> {
    let (body, took) = decided(client, subject, photo, decision).await.context(what.to_owned())?;
    println!("  {what:<29} {decision:<9} {:>5} ms", took.as_millis());
    Ok((body, took))
}

/// Verifies; an error unless the decision is the expected one.
pub(super) async fn decided(
    client: &ApiClient,
    subject: &str,
    photo: &Photo,
    expected: &str,
) -> Result<(Value, Duration)> {
    let answer = client.verify(subject, photo).await?;
    let (body, took) = answer.map_err(|refusal| anyhow::anyhow!("the server refused: {refusal:?}"))?;
    let found = body["decision"].as_str().unwrap_or_default();
    ensure!(found == expected, "the decision is {found:?} and should be {expected:?}");
    Ok((body, took))
}

/// The enrolled photo as other cameras and other days would have it.
fn versions(portrait: &DynamicImage) -> Result<Vec<(&'static str, Photo)>> {
    Ok(vec![
        ("the enrolled photo", jpeg(portrait, 90)?),
        ("cropped", jpeg(&cropped(portrait), 90)?),
        ("turned by 10 degrees", jpeg(&turned(portrait, 10.0), 90)?),
        ("darker", jpeg(&portrait.brighten(-45), 90)?),
        ("brighter", jpeg(&portrait.brighten(35), 90)?),
        ("JPEG quality 40", jpeg(portrait, 40)?),
    ])
}

pub(super) fn cropped(portrait: &DynamicImage) -> DynamicImage {
    let (width, height) = (portrait.width(), portrait.height());
    portrait.crop_imm(width / 10, 0, width * 7 / 10, height * 7 / 10)
}

/// The image turned about its centre, black where nothing was.
fn turned(image: &DynamicImage, degrees: f32) -> DynamicImage {
    let source = image.to_rgb8();
    let (sin, cos) = degrees.to_radians().sin_cos();
    let (width, height) = source.dimensions();
    let (cx, cy) = (width as f32 / 2.0, height as f32 / 2.0);
    DynamicImage::ImageRgb8(RgbImage::from_fn(width, height, |x, y| {
        let (dx, dy) = (x as f32 - cx, y as f32 - cy);
        let (sx, sy) = (cx + dx * cos + dy * sin, cy - dx * sin + dy * cos);
        image::imageops::interpolate_bilinear(&source, sx, sy).unwrap_or(Rgb([0, 0, 0]))
    }))
}

fn print_summary(verified: &[(Value, Duration)], server: &ThrowawayServer) {
    let Some((first, _)) = verified.first() else { return };
    println!(
        "\nEvery decision: model {}, {} threshold {}, stated false-match rate {}.",
        first["model"].as_str().unwrap_or_default(),
        first["metric"].as_str().unwrap_or_default(),
        first["threshold"],
        first["false_match_rate"].as_str().unwrap_or_default(),
    );
    println!("\nWho saw what:");
    println!("  the client     the photos it sent, and yes or no; never a score");
    println!("  the edge       each photo and its embedding, in memory, while its request lasted");
    println!("  the database   a sealed ciphertext of 9 KB, without the keys to either layer; now gone");
    println!(
        "  the keyholder  {} encrypted bits, bound to single-use ids; never a photo or a template",
        verified.len()
    );
    println!(
        "\nIn this demonstration edge and keyholder are one process; in production they are two (docs/operations.md)."
    );
    if let Some(bytes) = server.resident_bytes() {
        println!("The server holds {} MB of memory, most of it the evaluation key.", bytes / 1_000_000);
    }
}

pub(super) fn open(path: &std::path::Path) -> Result<DynamicImage> {
    image::open(path)
        .with_context(|| format!("cannot read {}; run this in the repository or give --samples", path.display()))
}

/// Encodes as a client would.
pub(super) fn jpeg(image: &DynamicImage, quality: u8) -> Result<Photo> {
    let mut bytes = Cursor::new(vec![]);
    image.to_rgb8().write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, quality))?;
    Ok(Photo { bytes: bytes.into_inner(), media_type: "image/jpeg" })
}
