//! The detection error trade-off (DET) curve as SVG: false-non-match rate over false-match rate, both logarithmic.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::prelude::*;

use super::roc::{Point, Scores};

const RATE_MIN: f64 = 1e-5;

/// `marks`: the model card's operating points, drawn as dots.
pub fn write_det(path: &Path, scores: &Scores, marks: &[Point], title: &str) -> Result<()> {
    draw(path, scores, marks, title).with_context(|| format!("cannot write the plot to {}", path.display()))
}

fn draw(path: &Path, scores: &Scores, marks: &[Point], title: &str) -> Result<()> {
    let area = SVGBackend::new(path, (720, 560)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((RATE_MIN..1.0).log_scale(), (RATE_MIN..1.0).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("false-match rate")
        .y_desc("false-non-match rate")
        .x_label_formatter(&|rate| format!("{rate:.0e}"))
        .y_label_formatter(&|rate| format!("{rate:.0e}"))
        .draw()?;
    let place = |point: Point| (point.fmr.max(RATE_MIN), point.fnmr.max(RATE_MIN));
    chart.draw_series(LineSeries::new(scores.curve().map(place), BLUE.stroke_width(2)))?;
    chart.draw_series(marks.iter().map(|&mark| Circle::new(place(mark), 4, RED.filled())))?;
    area.present()?;
    Ok(())
}
