//! What was used day by day: a plot, and the same numbers as a table.

use actix_web::{HttpResponse, web::Data};
use askama::Template;

use super::{
    Fault, Officer, page,
    words::{Moment, day},
};
use crate::flows::{
    Flows,
    usage::{self, UsageDay, date},
};

/// Days that are shown.
const DAYS: u32 = 30;

#[derive(Template)]
#[template(path = "usage.html")]
struct Page<'a> {
    officer: &'a Officer,
    today: i64,
    quota: u32,
    resets: Moment,
    plot: Plot,
    days: Vec<Day>,
}

struct Day {
    date: String,
    verifications: i64,
    enrolments: i64,
}

pub async fn show(officer: Officer, flows: Data<Flows>) -> Result<HttpResponse, Fault> {
    let usage = usage::usage(&flows, officer.tenant, DAYS).await?;
    let days = every_day(usage.today, &usage.days);
    let row =
        |of: &UsageDay| Day { date: day(date(of.day)), verifications: of.verifications, enrolments: of.enrolments };
    let shown = Page {
        officer: &officer,
        today: usage.today.total(),
        quota: usage.quota_per_day,
        resets: Moment(usage.resets_at),
        plot: Plot::of(&days),
        days: days.iter().rev().map(row).collect(),
    };
    page(&officer, shown)
}

/// Oldest first; a day without use has zeros.
fn every_day(today: UsageDay, used: &[UsageDay]) -> Vec<UsageDay> {
    let first = today.day + 1 - i64::from(DAYS);
    let of = |day| used.iter().copied().find(|used| used.day == day);
    (first..=today.day).map(|day| of(day).unwrap_or(UsageDay { day, enrolments: 0, verifications: 0 })).collect()
}

/// A bar for each day, enrolments on top of verifications, in units of the drawing.
struct Plot {
    width: i64,
    height: i64,
    /// Where the bars stand, and the line below for words.
    floor: i64,
    text: i64,
    most: i64,
    bars: Vec<Bar>,
    first: String,
    last: String,
}

struct Bar {
    css: &'static str,
    x: i64,
    y: i64,
    width: i64,
    height: i64,
}

impl Plot {
    const STEP: i64 = 24;
    const BAR: i64 = 18;
    /// Above it stands the number of the highest bar.
    const CEILING: i64 = 22;
    const FLOOR: i64 = 182;

    fn of(days: &[UsageDay]) -> Self {
        let most = days.iter().map(UsageDay::total).max().unwrap_or(0);
        let height = |number: i64| number * (Self::FLOOR - Self::CEILING) / most.max(1);
        let bars = days.iter().zip(0..).flat_map(|(day, place)| {
            let top = height(day.total());
            let below = height(day.verifications);
            let x = place * Self::STEP + (Self::STEP - Self::BAR) / 2;
            let bar = |css, y, height| Bar { css, x, y, width: Self::BAR, height };
            [bar("verifications", Self::FLOOR - below, below), bar("enrolments", Self::FLOOR - top, top - below)]
        });
        let date_of = |day: Option<&UsageDay>| day.map(|of| day_of(of.day)).unwrap_or_default();
        Self {
            width: days.len() as i64 * Self::STEP,
            height: Self::FLOOR + 24,
            floor: Self::FLOOR,
            text: Self::FLOOR + 18,
            most,
            bars: bars.filter(|bar| bar.height > 0).collect(),
            first: date_of(days.first()),
            last: date_of(days.last()),
        }
    }
}

fn day_of(number: i64) -> String {
    day(date(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_holds_every_day_and_its_highest_bar_reaches_the_ceiling() {
        let today = UsageDay { day: 20_000, enrolments: 10, verifications: 30 };
        let earlier = UsageDay { day: 19_990, enrolments: 0, verifications: 10 };
        let days = every_day(today, &[today, earlier]);
        assert_eq!((days.len(), days[19], days[29]), (30, earlier, today));
        let plot = Plot::of(&days);
        assert_eq!((plot.most, plot.bars.len()), (40, 3));
        assert_eq!(plot.bars.iter().map(|bar| bar.y).min(), Some(Plot::CEILING));
        assert!(plot.bars.iter().all(|bar| bar.x + bar.width <= plot.width && bar.y + bar.height <= Plot::FLOOR));
        assert!(Plot::of(&every_day(UsageDay { day: 1, enrolments: 0, verifications: 0 }, &[])).bars.is_empty());
    }
}
