//! One file per noun: parse, call one flow, answer.

pub mod access_requests;
pub mod account;
pub mod api_keys;
pub mod audit;
pub mod consents;
pub mod docs;
pub mod enrolments;
pub mod erasures;
pub mod evidence;
pub mod health;
pub mod models;
pub mod notices;
pub mod oauth;
pub mod opendsr;
pub mod policies;
pub mod restriction;
pub mod subjects;
pub mod verifications;
