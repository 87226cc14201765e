//! A few things that one caller at a time may use; who finds none waits.

use std::{
    ops::{Deref, DerefMut},
    sync::{Condvar, Mutex, PoisonError},
};

pub(super) struct Pool<T> {
    free: Mutex<Vec<T>>,
    returned: Condvar,
}

impl<T> Pool<T> {
    pub fn new(things: Vec<T>) -> Self {
        Self { free: Mutex::new(things), returned: Condvar::new() }
    }

    pub fn take(&self) -> Taken<'_, T> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(thing) = free.pop() {
                return Taken { pool: self, thing: Some(thing) };
            }
            free = self.returned.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Goes back to its pool when dropped, also when its user panicked.
pub(super) struct Taken<'a, T> {
    pool: &'a Pool<T>,
    /// Always there until the drop.
    thing: Option<T>,
}

#[expect(clippy::expect_used, reason = "the thing leaves its guard only in drop")]
impl<T> Deref for Taken<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.thing.as_ref().expect("taken until dropped")
    }
}

#[expect(clippy::expect_used, reason = "the thing leaves its guard only in drop")]
impl<T> DerefMut for Taken<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.thing.as_mut().expect("taken until dropped")
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        if let Some(thing) = self.thing.take() {
            self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(thing);
            self.pool.returned.notify_one();
        }
    }
}
