//! A cursor that is taken is the one spelling of an id, and a limit is within its bounds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use velum::{
    domain::id::{ApiKeyId, SubjectId},
    flows::{Page, PageRequest},
};

fuzz_target!(|data: &[u8]| {
    let Some((limit, cursor)) = data.split_first() else { return };
    let Ok(cursor) = std::str::from_utf8(cursor) else { return };
    let Ok(request) = PageRequest::new(Some(u32::from(*limit)), Some(cursor)) else { return };
    assert!((1..=PageRequest::LIMIT_MAX).contains(&request.limit()));
    let subject = request.after::<SubjectId>();
    if let Ok(Some(id)) = &subject {
        assert_eq!(Page::<SubjectId>::cursor(id), cursor);
    }
    assert!(!(subject.is_ok() && request.after::<ApiKeyId>().is_ok()), "a cursor belongs to one kind of list");
});
