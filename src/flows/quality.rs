//! What was seen in an image besides whose face it is.

use crate::face::QualityReport;

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Quality {
    pub report: QualityReport,
    pub faces_seen: usize,
}
