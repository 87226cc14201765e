//! How long an officer waits for a page of the console, with many persons in the database: from the request to the last byte,
//! over HTTPS against a server in a process of its own, so that the server's own share is less.

use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Map, Value, json};

use super::percentile;
use crate::{
    commands::{progress, throwaway_server::ThrowawayServer},
    settings::FaceSettings,
};

/// Persons that are registered at the same time.
const AT_ONCE: usize = 16;
/// Persons that are registered with one token.
const PART: usize = 10_000;
/// One person in so many asks to be erased.
const ONE_IN: usize = 100;
/// How often each page is asked for.
const VISITS: usize = 100;

pub struct Console {
    persons: usize,
    requests: usize,
    /// Each page, and sorted milliseconds.
    pages: Vec<(&'static str, Vec<f64>)>,
}

impl Console {
    pub async fn measure(face: &FaceSettings, persons: usize) -> Result<Self> {
        let spinner = progress::spinner("starting a server");
        let mut server = ThrowawayServer::start(face, &[])?;
        server.ready().await?;
        spinner.finish_and_clear();

        let bar = progress::counted("persons", persons);
        let mut subjects = Vec::with_capacity(persons);
        while subjects.len() < persons {
            // Another token for each part: a hundred thousand persons take longer than one lives.
            let (client, from) = (server.ready().await?, subjects.len());
            let registered = stream::iter(from..persons.min(from + PART)).map(|number| {
                let (client, bar) = (&client, &bar);
                async move {
                    let subject = client.create_subject(&format!("person-{number}")).await?;
                    client.grant_consent(&subject).await?;
                    bar.inc(1);
                    anyhow::Ok(subject)
                }
            });
            subjects.extend(registered.buffer_unordered(AT_ONCE).try_collect::<Vec<String>>().await?);
        }
        bar.finish_and_clear();
        let (answering, mut request) = (server.compliance_officer().await?, None);
        for subject in subjects.iter().step_by(ONE_IN) {
            request = Some(answering.ask_for_erasure(subject).await?);
        }
        let subject = subjects.last().context("a console of nobody is not measured")?;
        let request = request.context("a console of nobody is not measured")?;

        let officer = server.officer().await?;
        let pages = [
            ("requests", "/console/requests".to_owned()),
            ("one request", format!("/console/requests/{request}")),
            ("one person", format!("/console/subjects/{subject}")),
            ("audit log", "/console/audit".to_owned()),
            ("audit log of a person", format!("/console/audit?subject={subject}")),
            ("audit log of a day", "/console/audit?from=2020-01-01&to=2020-01-01".to_owned()),
            ("audit log of an act", "/console/audit?action=erasure.rejected".to_owned()),
            ("retention", "/console/retention".to_owned()),
            ("usage", "/console/usage".to_owned()),
            ("keys", "/console/keys".to_owned()),
        ];
        let bar = progress::counted("pages", pages.len() * VISITS);
        let mut times: Vec<(&'static str, Vec<f64>)> = pages.iter().map(|(name, _)| (*name, Vec::new())).collect();
        // In turn, so that a busy moment hits all of them alike.
        for _ in 0..VISITS {
            for ((_, path), (_, times)) in pages.iter().zip(&mut times) {
                let start = Instant::now();
                officer.page(path).await?;
                times.push(start.elapsed().as_secs_f64() * 1e3);
                bar.inc(1);
            }
        }
        bar.finish_and_clear();
        for (_, times) in &mut times {
            times.sort_by(f64::total_cmp);
        }
        Ok(Self { persons, requests: persons.div_ceil(ONE_IN), pages: times })
    }

    pub fn to_json(&self) -> Map<String, Value> {
        let page = |(name, times): &(&str, Vec<f64>)| {
            ((*name).to_owned(), json!({ "p50_ms": percentile(times, 0.5), "p95_ms": percentile(times, 0.95) }))
        };
        let pages: Map<String, Value> = self.pages.iter().map(page).collect();
        let members = [("console_persons", json!(self.persons)), ("console_pages", Value::Object(pages))];
        members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    pub fn to_text(&self) -> String {
        let Self { persons, requests, pages } = self;
        let head = format!("\npages of the console, {persons} persons, {requests} open requests\n");
        pages.iter().fold(head, |text, (name, times)| {
            let (p50, p95) = (percentile(times, 0.5), percentile(times, 0.95));
            format!("{text}  {name:<24} p50 {p50:>7.1} ms, p95 {p95:>7.1} ms\n")
        })
    }
}
