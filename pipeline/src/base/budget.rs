//! Memory budgets: reservations, and queues between stages that are bounded in bytes.
//!
//! A reservation is taken before the work that needs the bytes and released on drop. Every queue has
//! its own budget and data flows one way, so a waiting stage never holds what a later stage needs, and
//! the stages cannot deadlock.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// The granularity of reservations, because a semaphore's permits are limited.
const GRAIN_BYTES: u64 = 1024;

/// A memory budget in bytes.
#[derive(Clone, Debug)]
pub(crate) struct Budget {
    grains: Arc<Semaphore>,
    grains_max: u32,
    /// The grains held by timed-out work.
    grains_lost: Arc<AtomicU32>,
}

/// Reserved bytes, released on drop.
#[derive(Debug)]
pub(crate) struct Reservation {
    permit: OwnedSemaphorePermit,
}

impl Reservation {
    /// Returns the reserved bytes.
    #[must_use]
    pub(crate) fn bytes(&self) -> u64 {
        self.permit.num_permits() as u64 * GRAIN_BYTES
    }

    /// Splits off at most `bytes`.
    ///
    /// # Panics
    ///
    /// Never: it does not split off more than is reserved.
    pub(crate) fn split(&mut self, bytes: u64) -> Self {
        let wanted = usize::try_from(bytes.div_ceil(GRAIN_BYTES)).unwrap_or(usize::MAX);
        let n_grains = wanted.min(self.permit.num_permits());
        // `n_grains` is at most the number of permits.
        let permit = self.permit.split(n_grains).expect("no more than there is");
        Self { permit }
    }

    /// Releases the bytes beyond `bytes`.
    pub(crate) fn shrink_to(&mut self, bytes: u64) {
        let kept = bytes.div_ceil(GRAIN_BYTES).saturating_mul(GRAIN_BYTES);
        drop(self.split(self.bytes().saturating_sub(kept)));
    }
}

/// The error of a request that exceeds the whole budget.
#[derive(Debug, thiserror::Error)]
#[error("{bytes} bytes of memory are needed, but only {bytes_max} are available")]
pub(crate) struct TooLarge {
    /// The requested bytes.
    pub bytes: u64,
    /// The available bytes.
    pub bytes_max: u64,
}

/// How often a waiting reservation checks whether it can still succeed.
const LOOK: Duration = Duration::from_secs(1);

impl Budget {
    /// Creates a budget of `bytes`, rounded up to whole KiB.
    #[must_use]
    pub(crate) fn new(bytes: u64) -> Self {
        let grains_max = u32::try_from(bytes.div_ceil(GRAIN_BYTES)).unwrap_or(u32::MAX).max(1);
        let grains = Arc::new(Semaphore::new(grains_max as usize));
        Self { grains, grains_max, grains_lost: Arc::default() }
    }

    /// Returns the size of the whole budget.
    #[must_use]
    pub(crate) fn bytes_max(&self) -> u64 {
        u64::from(self.grains_max) * GRAIN_BYTES
    }

    /// Waits until `bytes` are free and reserves them. A request larger than the budget reserves all of
    /// it and so runs alone; callers that must refuse it check [`Budget::bytes_max`] first.
    ///
    /// # Panics
    ///
    /// Never: the semaphore is not closed.
    pub(crate) async fn reserve(&self, bytes: u64) -> Reservation {
        let grains = u32::try_from(bytes.div_ceil(GRAIN_BYTES))
            .unwrap_or(u32::MAX)
            .clamp(1, self.grains_max);
        let permit = Arc::clone(&self.grains).acquire_many_owned(grains).await;
        Reservation { permit: permit.expect("the semaphore is never closed") }
    }

    /// Reserves `bytes` if they are free now.
    #[must_use]
    pub(crate) fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let grains = u32::try_from(bytes.div_ceil(GRAIN_BYTES)).ok()?.max(1);
        let permit = Arc::clone(&self.grains).try_acquire_many_owned(grains).ok()?;
        Some(Reservation { permit })
    }

    /// Returns the bytes that can ever be reserved: all except those held by timed-out work.
    #[must_use]
    pub(crate) fn bytes_left(&self) -> u64 {
        let left = self.grains_max.saturating_sub(self.grains_lost.load(Relaxed));
        u64::from(left) * GRAIN_BYTES
    }

    /// Waits until `bytes` are free and reserves them.
    ///
    /// # Errors
    ///
    /// [`TooLarge`] if they can never be free.
    pub(crate) async fn reserve_or_refuse(&self, bytes: u64) -> Result<Reservation, TooLarge> {
        let reserved = self.reserve(bytes);
        tokio::pin!(reserved);
        loop {
            let bytes_max = self.bytes_left();
            if bytes > bytes_max {
                return Err(TooLarge { bytes, bytes_max });
            }
            if let Ok(reservation) = tokio::time::timeout(LOOK, &mut reserved).await {
                return Ok(reservation);
            }
        }
    }

    /// Lends a reservation to work that may never end.
    #[must_use]
    pub(crate) fn lend(&self, reservation: Reservation) -> (Lent, Lender) {
        let grains = u32::try_from(reservation.permit.num_permits()).unwrap_or(u32::MAX);
        let loan = Arc::new(Mutex::new(Loan { has_ended: false, is_lost: false }));
        let grains_lost = Arc::clone(&self.grains_lost);
        let lent = Lent {
            reservation: Some(reservation),
            grains_lost: Arc::clone(&grains_lost),
            loan: Arc::clone(&loan),
            grains,
        };
        (lent, Lender { grains_lost, loan, grains })
    }
}

#[derive(Debug)]
struct Loan {
    has_ended: bool,
    is_lost: bool,
}

/// The borrowed side of a loan, released when the work ends, however late.
#[derive(Debug)]
pub(crate) struct Lent {
    reservation: Option<Reservation>,
    grains_lost: Arc<AtomicU32>,
    loan: Arc<Mutex<Loan>>,
    grains: u32,
}

impl Lent {
    /// Returns the reservation to the lender.
    ///
    /// # Panics
    ///
    /// Never: the reservation is only taken here.
    #[must_use]
    pub(crate) fn back(mut self) -> Reservation {
        self.reservation.take().expect("it is taken by value once")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut loan = self.loan.lock().unwrap_or_else(PoisonError::into_inner);
        loan.has_ended = true;
        if loan.is_lost {
            self.grains_lost.fetch_sub(self.grains, Relaxed);
        }
    }
}

/// The lending side of a loan.
#[derive(Debug)]
pub(crate) struct Lender {
    grains_lost: Arc<AtomicU32>,
    loan: Arc<Mutex<Loan>>,
    grains: u32,
}

impl Lender {
    /// Counts the loan as lost until the work ends.
    pub(crate) fn give_up(self) {
        let mut loan = self.loan.lock().unwrap_or_else(PoisonError::into_inner);
        if !loan.has_ended {
            loan.is_lost = true;
            self.grains_lost.fetch_add(self.grains, Relaxed);
        }
    }
}

/// A queued item with its reservation.
#[derive(Debug)]
pub(crate) struct Held<T> {
    /// The item.
    pub item: T,
    /// Released when the receiver is done with the item.
    pub reservation: Reservation,
}

/// The sending end of a queue that is bounded in bytes.
#[derive(Debug)]
pub(crate) struct ByteSender<T> {
    budget: Budget,
    sender: mpsc::UnboundedSender<Held<T>>,
}

// Not derived, because `T` need not be `Clone`.
impl<T> Clone for ByteSender<T> {
    fn clone(&self) -> Self {
        Self { budget: self.budget.clone(), sender: self.sender.clone() }
    }
}

/// The receiving end of a queue that is bounded in bytes.
pub(crate) type ByteReceiver<T> = mpsc::UnboundedReceiver<Held<T>>;

/// Creates a queue; its items, queued or in use by the receiver, hold at most `bytes`.
#[must_use]
pub(crate) fn byte_queue<T>(bytes: u64) -> (ByteSender<T>, ByteReceiver<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (ByteSender { budget: Budget::new(bytes), sender }, receiver)
}

/// Waits for an item, then drains the queue up to `n_max` items; blocks its thread. Returns the items
/// and their reservations; `None` when the queue is closed.
pub(crate) fn receive_batch<T>(
    receiver: &mut ByteReceiver<T>,
    n_max: usize,
) -> Option<(Vec<T>, Vec<Reservation>)> {
    let mut held = vec![receiver.blocking_recv()?];
    while held.len() < n_max
        && let Ok(next) = receiver.try_recv()
    {
        held.push(next);
    }
    Some(held.into_iter().map(|Held { item, reservation }| (item, reservation)).unzip())
}

/// The error of sending to a stage that has ended.
#[derive(Debug, thiserror::Error)]
#[error("the next stage has stopped")]
pub(crate) struct Disconnected;

impl<T> ByteSender<T> {
    /// Waits until `bytes` fit the queue, then sends the item.
    ///
    /// # Errors
    ///
    /// [`Disconnected`] if the receiver is gone.
    pub(crate) async fn send(&self, item: T, bytes: u64) -> Result<(), Disconnected> {
        let reservation = self.reserve(bytes).await;
        self.send_reserved(item, reservation)
    }

    /// Reserves `bytes` of the queue for an item that does not exist yet.
    pub(crate) async fn reserve(&self, bytes: u64) -> Reservation {
        self.budget.reserve(bytes).await
    }

    /// Reserves `bytes` of the queue if they are free now.
    pub(crate) fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        self.budget.try_reserve(bytes)
    }

    /// Sends an item with bytes reserved for it.
    ///
    /// # Errors
    ///
    /// [`Disconnected`] if the receiver is gone.
    pub(crate) fn send_reserved(
        &self,
        item: T,
        reservation: Reservation,
    ) -> Result<(), Disconnected> {
        self.sender.send(Held { item, reservation }).map_err(|_| Disconnected)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Budget, byte_queue};

    #[tokio::test]
    async fn what_is_lost_to_endless_work_is_not_waited_for() {
        let budget = Budget::new(4096);
        let (lent, lender) = budget.lend(budget.reserve(3072).await);
        assert_eq!(budget.bytes_left(), 4096);
        lender.give_up();
        assert_eq!(budget.bytes_left(), 1024);
        assert!(budget.reserve_or_refuse(2048).await.is_err());
        drop(budget.reserve_or_refuse(1024).await.unwrap());
        // The work ends late.
        drop(lent);
        assert_eq!(budget.bytes_left(), 4096);
        let (lent, lender) = budget.lend(budget.reserve_or_refuse(4096).await.unwrap());
        let reservation = lent.back();
        lender.give_up();
        assert_eq!((budget.bytes_left(), reservation.bytes()), (4096, 4096));
    }

    #[tokio::test]
    async fn reservations_are_split_and_shrunk() {
        let budget = Budget::new(8192);
        let mut whole = budget.reserve(8192).await;
        let part = whole.split(3000);
        assert_eq!((whole.bytes(), part.bytes()), (5120, 3072));
        whole.shrink_to(1024);
        assert_eq!(whole.bytes(), 1024);
        drop(budget.reserve(4096).await);
    }

    #[tokio::test]
    async fn a_full_queue_makes_the_sender_wait_until_the_receiver_is_done() {
        let (sender, mut receiver) = byte_queue(2048);
        sender.send("first", 1500).await.unwrap();
        let second = sender.send("second", 1500);
        tokio::pin!(second);
        let waited = tokio::time::timeout(Duration::from_millis(20), &mut second).await;
        assert!(waited.is_err(), "1,500 + 1,500 bytes do not fit 2,048");
        let first = receiver.recv().await.unwrap();
        assert_eq!(first.item, "first");
        drop(first);
        second.await.unwrap();
        assert_eq!(receiver.recv().await.unwrap().item, "second");
    }

    #[tokio::test]
    async fn what_is_not_needed_any_more_is_given_back() {
        let budget = Budget::new(4096);
        let mut held = budget.reserve(4096).await;
        held.shrink_to(1500);
        held.shrink_to(9000);
        let rest = budget.reserve(2048).await;
        let more = tokio::time::timeout(Duration::from_millis(20), budget.reserve(1)).await;
        assert!(more.is_err(), "1,500 bytes are two KiB, so nothing is left");
        drop((held, rest));
        budget.reserve(4096).await;
    }

    #[tokio::test]
    async fn what_is_larger_than_the_queue_passes_alone() {
        let (sender, mut receiver) = byte_queue(1024);
        sender.send((), 1 << 40).await.unwrap();
        assert!(receiver.recv().await.is_some());
    }
}
