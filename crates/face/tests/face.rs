//! The face pipeline with the real models: each step against stored answers, and every refusal.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot read its data has failed")]

#[path = "face/golden.rs"]
mod golden;
#[path = "face/onnx_graph.rs"]
mod onnx_graph;
#[path = "face/own_model.rs"]
mod own_model;
#[path = "face/photos.rs"]
mod photos;
#[path = "face/refusals.rs"]
mod refusals;
#[path = "face/samples.rs"]
mod samples;
#[path = "face/stage.rs"]
mod stage;
