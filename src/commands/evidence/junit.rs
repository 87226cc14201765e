//! Test results as `cargo nextest` writes them (JUnit XML): how many, how they ended, which failed.

use roxmltree::{Document, Node};
use serde_json::{Value, json};

/// `None` where the text is no such report.
pub fn summary(text: &str) -> Option<Value> {
    let document = Document::parse(text).ok()?;
    let root = document.root_element();
    if !root.has_tag_name("testsuites") && !root.has_tag_name("testsuite") {
        return None;
    }
    let cases: Vec<Node<'_, '_>> = root.descendants().filter(|node| node.has_tag_name("testcase")).collect();
    let ended = |case: &Node<'_, '_>, how: &[&str]| case.children().any(|child| how.contains(&child.tag_name().name()));
    let failed: Vec<&Node<'_, '_>> = cases.iter().filter(|case| ended(case, &["failure", "error"])).collect();
    let skipped = cases.iter().filter(|case| ended(case, &["skipped"])).count();
    let name = |case: &&Node<'_, '_>| {
        let of = |attribute| case.attribute(attribute).unwrap_or_default();
        format!("{}::{}", of("classname"), of("name"))
    };
    let timestamp =
        root.attribute("timestamp").or_else(|| root.descendants().find_map(|node| node.attribute("timestamp")));
    Some(json!({
        "tests": cases.len(),
        "passed": cases.len() - failed.len() - skipped,
        "failed": failed.len(),
        "skipped": skipped,
        "failed_names": failed.iter().copied().map(|case| name(&case)).collect::<Vec<_>>(),
        "begun_at": timestamp,
        "seconds": root.attribute("time").and_then(|seconds| seconds.parse::<f64>().ok()),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<testsuites name="nextest-run" tests="3" failures="1" errors="0" time="2.5" timestamp="2026-11-21T12:00:00.000+00:00">
  <testsuite name="velum::api" tests="3" disabled="0" errors="0" failures="1">
    <testcase name="erasures::one" classname="velum::api" time="1.0"/>
    <testcase name="erasures::two" classname="velum::api" time="1.0"><failure message="m" type="test failure">x</failure></testcase>
    <testcase name="erasures::three" classname="velum::api" time="0.5"><skipped/></testcase>
  </testsuite>
</testsuites>"#;

    #[test]
    fn a_report_is_counted_test_by_test() {
        let summary = summary(REPORT).unwrap();
        assert_eq!(summary["tests"], 3);
        assert_eq!((&summary["passed"], &summary["failed"], &summary["skipped"]), (&1.into(), &1.into(), &1.into()));
        assert_eq!(summary["failed_names"], json!(["velum::api::erasures::two"]));
        assert_eq!(summary["begun_at"], "2026-11-21T12:00:00.000+00:00");
        assert_eq!(summary["seconds"], 2.5);
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for text in ["", "no XML", "<html/>", "<testsuites>"] {
            assert!(summary(text).is_none(), "{text}");
        }
    }
}
