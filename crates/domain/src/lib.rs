//! The words of the product. No I/O, no async, no wire shapes: every other room may import this one, and it imports none.

pub mod access;
pub mod attempts;
pub mod clock;
pub mod consent;
pub mod decision;
pub mod erasure;
pub mod face;
pub mod id;
pub mod job;
pub mod matching;
pub mod network;
pub mod notice;
pub mod opendsr;
pub mod restriction;
pub mod retention;
pub mod revocation;
pub mod usage;
