//! The audit log of a tenant: what was done, by whom, to whom, in an order that cannot be changed unseen.
//!
//! ```text
//! hash_0 = SHA-256("velum audit v1" ‖ tenant id)
//! hash_n = SHA-256(hash_(n-1) ‖ entry_n)           entry_n: the entry's JSON, in the one form that it has
//! root_n = Merkle tree hash over hash_1 .. hash_n  (RFC 9162, section 2.1.1)
//! ```
//! Every entry covers all before it, so that a change, removal, insertion or reordering shows at the next one; a checkpoint,
//! signed over size, last hash and root, shows what is missing at the end. Who can write to the database can rewrite the
//! log from the last checkpoint that somebody else holds; who holds none has to believe us.
//!
//! Persons stand in it as keyed digests of their ids: the log outlives them.

mod chain;
mod entry;
pub mod export;
mod tree;

pub use self::{
    chain::{Chain, Checkpoint, InvalidChain},
    entry::{Action, Actor, Entry, Event, SubjectDigest, Why, stamp},
};

/// SHA-256.
pub type Hash = [u8; 32];
