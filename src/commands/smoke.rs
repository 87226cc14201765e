//! `velum smoke`: one person's whole way through a running server, by the door that its callers use. A deploy asks this of the
//! new program before it sends anybody there.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;

use super::{
    Failure,
    api_client::{ApiClient, Credential, Photo},
    demo, settings,
    way::Way,
};
use crate::{domain::id::SubjectId, settings::Role};

/// Longer than any request may take by VELUM_REQUEST_TIMEOUT_S' default.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(40);

#[derive(Args)]
pub struct Arguments {
    #[command(flatten)]
    way: Way,
    /// The client that asks, as `velum clients create --json` printed it; give it a tenant of its own
    #[arg(long, value_name = "FILE")]
    credential: PathBuf,
    /// Folder with the two portraits
    #[arg(long, value_name = "DIR", default_value = "samples")]
    samples: PathBuf,
}

pub async fn run(arguments: Arguments) -> Result<(), Failure> {
    let settings = settings(Role::Tool)?;
    let (http, base) = arguments.way.client(&settings).await?;
    let http = http.timeout(ANSWER_TIME_MAX).build().map_err(|error| Failure::because("the HTTP client", error))?;
    let outcome = walk(http, base, &arguments.credential, &arguments.samples).await;
    outcome
        .map_err(|error| Failure::from(error).next("its log says more; nothing was left behind but an erased person"))
}

async fn walk(http: reqwest::Client, base: String, credential: &Path, samples: &Path) -> Result<()> {
    let portraits = Portraits::open(samples)?;
    let credential = std::fs::read(credential).with_context(|| format!("cannot read {}", credential.display()))?;
    let credential: Credential = serde_json::from_slice(&credential).context("the credential is none")?;
    let client = step("token", ApiClient::sign_in(http, base, &credential)).await?;
    // A reference of its own: two deploys, or a run that was killed before, are in nobody's way.
    let reference = format!("smoke-{}", SubjectId::generate());
    let subject = step("person", client.create_subject(&reference)).await?;
    let seen = look(&client, &subject, &portraits).await;
    // Whatever was seen, the person goes.
    let erased = step("erased", erase(&client, &subject)).await;
    seen.and(erased)
}

async fn look(client: &ApiClient, subject: &str, portraits: &Portraits) -> Result<()> {
    step("no consent, no match", refused(client, subject, &portraits.again)).await?;
    let consent = step("consent", client.grant_consent(subject)).await?;
    step("enrolled", client.enrol(subject, &portraits.enrolled)).await?;
    step("recognised", demo::decided(client, subject, &portraits.again, "match")).await?;
    step("another person told apart", demo::decided(client, subject, &portraits.other, "no_match")).await?;
    step("consent withdrawn", client.withdraw_consent(subject, &consent)).await?;
    step("no match any more", refused(client, subject, &portraits.again)).await
}

/// Public-domain portraits of two people: one as enrolled, the same photo otherwise cut and compressed, the other person.
struct Portraits {
    enrolled: Photo,
    again: Photo,
    other: Photo,
}

impl Portraits {
    fn open(samples: &Path) -> Result<Self> {
        let one = demo::open(&samples.join(demo::COLLINS))?;
        let other = demo::open(&samples.join(demo::HOPPER))?;
        Ok(Self {
            enrolled: demo::jpeg(&one, 90)?,
            again: demo::jpeg(&demo::cropped(&one), 70)?,
            other: demo::jpeg(&other, 90)?,
        })
    }
}

/// Says what is done and how long it took, or names what failed.
async fn step<T>(name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    let start = Instant::now();
    let value = work.await.with_context(|| format!("smoke, {name}"))?;
    println!("{name:<27} {:>5} ms", start.elapsed().as_millis());
    Ok(value)
}

async fn refused(client: &ApiClient, subject: &str, photo: &Photo) -> Result<()> {
    let refusal = client.verify(subject, photo).await?.err().context("somebody was verified without consent")?;
    ensure!(refusal.code == "consent_required", "refused for another reason: {refusal:?}");
    Ok(())
}

async fn erase(client: &ApiClient, subject: &str) -> Result<()> {
    client.erase(subject).await?;
    let gone = client.subject(subject).await?.err().context("the person is still there")?;
    ensure!(gone.status.as_u16() == 404, "asked for the erased person, the server says {gone:?}");
    Ok(())
}
