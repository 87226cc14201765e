//! Boxes that may hold a face, and the geometry between the three networks of MTCNN. All in canvas pixels.

/// x1, y1, x2, y2; not necessarily inside the canvas.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub corners: [f32; 4],
    /// What the network adds to the corners, in units of the box's size.
    pub offsets: [f32; 4],
    pub score: f32,
}

/// What an overlap is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overlap {
    /// Intersection over union.
    Union,
    /// Intersection over the smaller box, whole pixels: a face inside a face is dropped too.
    Smaller,
}

impl Candidate {
    pub fn width(&self) -> f32 {
        self.corners[2] - self.corners[0]
    }

    pub fn height(&self) -> f32 {
        self.corners[3] - self.corners[1]
    }

    /// Moves the corners by the network's offsets; `extent` is 1 where a box ends on its last pixel, 0 where behind it.
    pub fn refined(mut self, extent: f32) -> Self {
        let (width, height) = (self.width() + extent, self.height() + extent);
        for ((corner, offset), side) in self.corners.iter_mut().zip(self.offsets).zip([width, height, width, height]) {
            *corner += offset * side;
        }
        self
    }

    /// The square about the same centre, as large as the longer side.
    pub fn squared(mut self) -> Self {
        let [x1, y1, x2, y2] = self.corners;
        let side = self.width().max(self.height());
        let (left, top) = ((x1 + x2 - side) / 2.0, (y1 + y2 - side) / 2.0);
        self.corners = [left, top, left + side, top + side];
        self
    }

    pub fn overlap(&self, other: &Self, overlap: Overlap) -> f32 {
        let extent = if overlap == Overlap::Smaller { 1.0 } else { 0.0 };
        let area = |candidate: &Self| (candidate.width() + extent) * (candidate.height() + extent);
        let [ax1, ay1, ax2, ay2] = self.corners;
        let [bx1, by1, bx2, by2] = other.corners;
        let width = (ax2.min(bx2) - ax1.max(bx1) + extent).max(0.0);
        let height = (ay2.min(by2) - ay1.max(by1) + extent).max(0.0);
        let common = width * height;
        match overlap {
            Overlap::Union => common / (area(self) + area(other) - common),
            Overlap::Smaller => common / area(self).min(area(other)),
        }
    }
}

/// Non-maximum suppression: of boxes that overlap by more than `limit`, the best stays. Answers positions, best first.
pub(super) fn suppress(candidates: &[Candidate], limit: f32, overlap: Overlap) -> Vec<usize> {
    let mut by_score: Vec<usize> = (0..candidates.len()).collect();
    by_score.sort_by(|&a, &b| candidates[b].score.total_cmp(&candidates[a].score));
    let mut kept: Vec<usize> = Vec::new();
    for position in by_score {
        let covered = |&better: &usize| candidates[better].overlap(&candidates[position], overlap) > limit;
        if !kept.iter().any(covered) {
            kept.push(position);
        }
    }
    kept
}

/// The candidates that survive [`suppress`], best first, at most `count_max`.
pub(super) fn best(candidates: &[Candidate], limit: f32, count_max: usize) -> Vec<Candidate> {
    suppress(candidates, limit, Overlap::Union).into_iter().take(count_max).map(|kept| candidates[kept]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(corners: [f32; 4], score: f32) -> Candidate {
        Candidate { corners, offsets: [0.0; 4], score }
    }

    #[test]
    fn of_two_boxes_on_one_face_the_better_stays() {
        let boxes = [candidate([0.0, 0.0, 10.0, 10.0], 0.7), candidate([1.0, 0.0, 11.0, 10.0], 0.9)];
        assert_eq!(suppress(&boxes, 0.5, Overlap::Union), [1]);
        assert_eq!(suppress(&boxes, 0.9, Overlap::Union), [1, 0]);
    }

    #[test]
    fn a_box_inside_another_is_dropped_by_the_smaller_box_only() {
        let boxes = [candidate([0.0, 0.0, 99.0, 99.0], 0.9), candidate([40.0, 40.0, 59.0, 59.0], 0.8)];
        assert_eq!(suppress(&boxes, 0.7, Overlap::Union), [0, 1]);
        assert_eq!(suppress(&boxes, 0.7, Overlap::Smaller), [0]);
    }

    #[test]
    fn a_box_is_refined_by_its_size_and_squared_about_its_centre() {
        let mut refined = candidate([10.0, 10.0, 20.0, 30.0], 1.0);
        refined.offsets = [0.1, 0.0, 0.1, 0.1];
        assert_eq!(refined.refined(0.0).corners, [11.0, 10.0, 21.0, 32.0]);
        assert_eq!(candidate([10.0, 10.0, 20.0, 30.0], 1.0).squared().corners, [5.0, 10.0, 25.0, 30.0]);
    }
}
