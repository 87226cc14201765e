//! The bounded pool on which face and encryption run: the only way into CPU-heavy work.
//!
//! A caller takes a *place* and runs its work from that place. There are as many places as threads plus the length of the
//! queue; when they are taken the answer is [`Busy`] at once, so waiting work cannot pile up. Threads are made once: their
//! stacks and scratch memory stay, so resident memory is flat.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::Instant,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::measure::Stage;

/// All places are taken; nothing was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("all places of the compute pool are taken")]
pub struct Busy {
    pub retry_after_s: u64,
}

/// The work ended without an answer: it panicked. The thread lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a computation ended without an answer")]
pub struct ComputeCrashed;

type Job = Box<dyn FnOnce() + Send>;

pub struct Compute {
    places: Arc<Semaphore>,
    places_max: usize,
    jobs: mpsc::Sender<Job>,
}

impl Compute {
    /// `threads` computations run at a time and `queue_length` more may wait.
    pub fn start(threads: usize, queue_length: usize) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        for index in 0..threads.max(1) {
            let queue = Arc::clone(&queue);
            thread::Builder::new().name(format!("velum-compute-{index}")).spawn(move || work_off(&queue))?;
        }
        let places_max = threads.max(1) + queue_length;
        Ok(Self { places: Arc::new(Semaphore::new(places_max)), places_max, jobs })
    }

    pub fn reserve(&self) -> Result<Place, Busy> {
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Busy { retry_after_s: 1 })?;
        Ok(Place { permit, jobs: self.jobs.clone() })
    }

    /// Spares a caller the way when it is plain that there will be no place at its end.
    pub fn refuse_if_full(&self) -> Result<(), Busy> {
        self.reserve().map(drop)
    }

    pub fn places_taken(&self) -> usize {
        self.places_max - self.places.available_permits()
    }

    pub fn places_max(&self) -> usize {
        self.places_max
    }
}

/// One place in the pool; given back when its work has ended, or when it is dropped unused.
pub struct Place {
    permit: OwnedSemaphorePermit,
    jobs: mpsc::Sender<Job>,
}

impl Place {
    /// Runs `work` on a thread of the pool. Work whose caller has gone before its turn is not started; work that has
    /// started keeps its place to the end, whether or not anybody still waits.
    pub async fn run<T, F>(self, work: F) -> Result<T, ComputeCrashed>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let permit = self.permit;
        let waiting_since = Instant::now();
        let job: Job = Box::new(move || {
            let _place_until_the_end = permit;
            if !answer.is_closed() {
                Stage::Wait.took(waiting_since.elapsed());
                let _caller_gone_meanwhile = answer.send(work());
            }
        });
        self.jobs.send(job).map_err(|_| ComputeCrashed)?;
        answered.await.map_err(|_| ComputeCrashed)
    }
}

fn work_off(queue: &Mutex<mpsc::Receiver<Job>>) {
    loop {
        let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = next else { return };
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!(event = "compute_panicked", "a computation panicked; its request is answered with 500");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn work_is_answered() {
        let pool = Compute::start(2, 0).unwrap();
        assert_eq!(pool.reserve().unwrap().run(|| 6 * 7).await, Ok(42));
        all_given_back(&pool).await;
    }

    #[tokio::test]
    async fn a_full_pool_refuses_at_once_and_recovers() {
        let pool = Compute::start(1, 1).unwrap();
        let (release, held) = channel::<()>();
        let first = pool.reserve().unwrap();
        let running = tokio::spawn(first.run(move || held.recv()));
        let waiting = pool.reserve().unwrap();
        assert_eq!(pool.reserve().err(), Some(Busy { retry_after_s: 1 }));
        drop(waiting);
        assert!(pool.reserve().is_ok(), "an unused place is given back");
        release.send(()).unwrap();
        running.await.unwrap().unwrap().unwrap();
        all_given_back(&pool).await;
    }

    /// A place is given back a moment after its answer.
    async fn all_given_back(pool: &Compute) {
        while pool.places_taken() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_panic_costs_one_answer_and_no_thread() {
        let pool = Compute::start(1, 0).unwrap();
        let crashed = pool.reserve().unwrap().run(|| panic!("on purpose")).await;
        assert_eq!(crashed, Err::<(), _>(ComputeCrashed));
        all_given_back(&pool).await;
        assert_eq!(pool.reserve().unwrap().run(|| 1).await, Ok(1));
    }

    #[tokio::test]
    async fn work_of_a_caller_who_left_is_not_started() {
        let pool = Compute::start(1, 1).unwrap();
        let (release, held) = channel::<()>();
        let (told, tell) = channel::<&str>();
        let running = tokio::spawn(pool.reserve().unwrap().run(move || held.recv()));
        let abandoned = tokio::spawn(pool.reserve().unwrap().run(move || told.send("started")));
        tokio::task::yield_now().await;
        abandoned.abort();
        let _cancelled = abandoned.await;
        release.send(()).unwrap();
        running.await.unwrap().unwrap().unwrap();
        assert!(tell.recv().is_err(), "the abandoned work was dropped, not run");
    }
}
