//! How much memory images on their way in may take together.
//!
//! An image takes its share before its first byte is read and keeps it until it is worked off. Slow senders wait here and
//! not in the compute pool, where they would keep everybody else from processors that stand idle. No tenant can take more
//! than half, so that one cannot shut the others out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use super::compute::Busy;
use crate::domain::id::TenantId;

/// How long an upload takes that is in nobody's way.
const RETRY_AFTER_S: u64 = 2;

pub struct Uploads {
    taken: Arc<Mutex<Taken>>,
    bytes_max: usize,
}

#[derive(Default)]
struct Taken {
    bytes: usize,
    by_tenant: HashMap<TenantId, usize>,
}

impl Uploads {
    pub fn new(bytes_max: usize) -> Self {
        Self { taken: Arc::default(), bytes_max }
    }

    /// A share of `bytes`, which is what the image can have at most.
    pub fn reserve(&self, tenant: TenantId, bytes: usize) -> Result<Share, Busy> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let of_tenant = taken.by_tenant.get(&tenant).copied().unwrap_or(0);
        if taken.bytes + bytes > self.bytes_max || of_tenant + bytes > self.bytes_max / 2 {
            return Err(Busy { retry_after_s: RETRY_AFTER_S });
        }
        taken.bytes += bytes;
        taken.by_tenant.insert(tenant, of_tenant + bytes);
        Ok(Share { taken: Arc::clone(&self.taken), tenant, bytes })
    }

    /// Bytes that are spoken for.
    pub fn bytes_taken(&self) -> usize {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

/// Given back when dropped.
pub struct Share {
    taken: Arc<Mutex<Taken>>,
    tenant: TenantId,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.bytes -= self.bytes;
        if let Some(of_tenant) = taken.by_tenant.get_mut(&self.tenant) {
            *of_tenant -= self.bytes;
            if *of_tenant == 0 {
                taken.by_tenant.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_takes_half_at_most_and_gives_it_back() {
        let uploads = Uploads::new(100);
        let (one, other, third) = (TenantId::generate(), TenantId::generate(), TenantId::generate());
        let first = uploads.reserve(one, 30).unwrap();
        assert!(uploads.reserve(one, 21).is_err(), "more than half for one tenant");
        let _second = uploads.reserve(one, 20).unwrap();
        let _others = uploads.reserve(other, 50).unwrap();
        assert_eq!(uploads.bytes_taken(), 100);
        assert!(uploads.reserve(third, 1).is_err(), "nothing is left");
        drop(first);
        assert_eq!(uploads.bytes_taken(), 70);
        assert!(uploads.reserve(third, 30).is_ok());
        assert!(uploads.reserve(one, 31).is_err());
    }
}
