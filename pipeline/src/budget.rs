//! Memory promises between stages: queues that are bounded in bytes, and reservations.
//!
//! A reservation is taken before the work that needs the bytes and given back when dropped. Every
//! queue has a budget of its own and data flows one way, so a stage that waits never holds what a
//! later stage needs: the stages cannot block each other for ever.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Reservations are counted in this many bytes, because a semaphore's permits are limited.
const GRAIN_BYTES: u64 = 1024;

/// A number of bytes that may be in use at one time.
#[derive(Clone, Debug)]
pub struct Budget {
    grains: Arc<Semaphore>,
    grains_max: u32,
    /// Of these, what work that has no end keeps.
    grains_lost: Arc<AtomicU32>,
}

/// Bytes in use; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    permit: OwnedSemaphorePermit,
}

impl Reservation {
    /// Returns the bytes held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.permit.num_permits() as u64 * GRAIN_BYTES
    }

    /// Splits off at most `bytes` of it.
    ///
    /// # Panics
    ///
    /// Never: no more is split off than there is.
    pub fn split(&mut self, bytes: u64) -> Self {
        let wanted = usize::try_from(bytes.div_ceil(GRAIN_BYTES)).unwrap_or(usize::MAX);
        let n_grains = wanted.min(self.permit.num_permits());
        // As many were there just above.
        let permit = self.permit.split(n_grains).expect("no more than there is");
        Self { permit }
    }

    /// Gives back what is beyond `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let kept = bytes.div_ceil(GRAIN_BYTES).saturating_mul(GRAIN_BYTES);
        drop(self.split(self.bytes().saturating_sub(kept)));
    }
}

/// A budget can never hold what is asked for.
#[derive(Debug, thiserror::Error)]
#[error("{bytes} bytes of memory are needed, and {bytes_max} are left")]
pub struct TooLarge {
    /// What was asked for.
    pub bytes: u64,
    /// What there is.
    pub bytes_max: u64,
}

/// How often what waits for memory looks whether it can still be had.
const LOOK: Duration = Duration::from_secs(1);

impl Budget {
    /// Makes a budget of `bytes`, rounded up to whole KiB.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let grains_max = u32::try_from(bytes.div_ceil(GRAIN_BYTES)).unwrap_or(u32::MAX).max(1);
        let grains = Arc::new(Semaphore::new(grains_max as usize));
        Self { grains, grains_max, grains_lost: Arc::default() }
    }

    /// Returns the size of the whole budget.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        u64::from(self.grains_max) * GRAIN_BYTES
    }

    /// Waits until `bytes` are free and takes them. What is larger than the whole budget takes all
    /// of it, so it passes alone; whoever must refuse it asks [`Budget::bytes_max`] first.
    ///
    /// # Panics
    ///
    /// Never: the semaphore is not closed.
    pub async fn reserve(&self, bytes: u64) -> Reservation {
        let grains = u32::try_from(bytes.div_ceil(GRAIN_BYTES))
            .unwrap_or(u32::MAX)
            .clamp(1, self.grains_max);
        let permit = Arc::clone(&self.grains).acquire_many_owned(grains).await;
        Reservation { permit: permit.expect("the semaphore is never closed") }
    }

    /// Takes `bytes` if they are free now.
    #[must_use]
    pub fn try_reserve(&self, bytes: u64) -> Option<Reservation> {
        let grains = u32::try_from(bytes.div_ceil(GRAIN_BYTES)).ok()?.max(1);
        let permit = Arc::clone(&self.grains).try_acquire_many_owned(grains).ok()?;
        Some(Reservation { permit })
    }

    /// Returns what can still be reserved: all but what is lost to work that has no end.
    #[must_use]
    pub fn bytes_left(&self) -> u64 {
        let left = self.grains_max.saturating_sub(self.grains_lost.load(Relaxed));
        u64::from(left) * GRAIN_BYTES
    }

    /// Waits until `bytes` are free and takes them.
    ///
    /// # Errors
    ///
    /// [`TooLarge`] when they can never be free.
    pub async fn reserve_or_refuse(&self, bytes: u64) -> Result<Reservation, TooLarge> {
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

    /// Lends a reservation to work that may have no end.
    #[must_use]
    pub fn lend(&self, reservation: Reservation) -> (Lent, Lender) {
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

/// What the work holds; given back when it ends, however late.
#[derive(Debug)]
pub struct Lent {
    reservation: Option<Reservation>,
    grains_lost: Arc<AtomicU32>,
    loan: Arc<Mutex<Loan>>,
    grains: u32,
}

impl Lent {
    /// Gives the reservation back to who lent it.
    ///
    /// # Panics
    ///
    /// Never: it is there until then.
    #[must_use]
    pub fn back(mut self) -> Reservation {
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

/// The other end of a loan.
#[derive(Debug)]
pub struct Lender {
    grains_lost: Arc<AtomicU32>,
    loan: Arc<Mutex<Loan>>,
    grains: u32,
}

impl Lender {
    /// Counts what was lent as lost until the work ends after all.
    pub fn give_up(self) {
        let mut loan = self.loan.lock().unwrap_or_else(PoisonError::into_inner);
        if !loan.has_ended {
            loan.is_lost = true;
            self.grains_lost.fetch_add(self.grains, Relaxed);
        }
    }
}

/// An item on its way, with the bytes it holds.
#[derive(Debug)]
pub struct Held<T> {
    /// The item.
    pub item: T,
    /// Given back when the receiver is done with the item.
    pub reservation: Reservation,
}

/// The sending end of a queue that is bounded in bytes.
#[derive(Debug)]
pub struct ByteSender<T> {
    budget: Budget,
    sender: mpsc::UnboundedSender<Held<T>>,
}

// Not derived: `T` itself need not be `Clone`.
impl<T> Clone for ByteSender<T> {
    fn clone(&self) -> Self {
        Self { budget: self.budget.clone(), sender: self.sender.clone() }
    }
}

/// The receiving end of a queue that is bounded in bytes.
pub type ByteReceiver<T> = mpsc::UnboundedReceiver<Held<T>>;

/// Makes a queue whose items, waiting or in work at the receiver, hold at most `bytes`.
#[must_use]
pub fn byte_queue<T>(bytes: u64) -> (ByteSender<T>, ByteReceiver<T>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (ByteSender { budget: Budget::new(bytes), sender }, receiver)
}

/// Waits for an item, then takes those that are there already, at most `n_max` together; blocks its
/// thread. Returns the items, with what they hold of the queue; `None` when no more come.
pub fn receive_batch<T>(
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

/// The next stage is gone, so nothing can be sent to it.
#[derive(Debug, thiserror::Error)]
#[error("the next stage has stopped")]
pub struct Disconnected;

impl<T> ByteSender<T> {
    /// Waits until `bytes` fit the queue, then sends the item.
    ///
    /// # Errors
    ///
    /// [`Disconnected`] when the receiver is gone.
    pub async fn send(&self, item: T, bytes: u64) -> Result<(), Disconnected> {
        let reservation = self.reserve(bytes).await;
        self.send_reserved(item, reservation)
    }

    /// Waits until `bytes` fit the queue, for an item that is still to be made.
    pub async fn reserve(&self, bytes: u64) -> Reservation {
        self.budget.reserve(bytes).await
    }

    /// Sends an item with bytes that were reserved for it.
    ///
    /// # Errors
    ///
    /// [`Disconnected`] when the receiver is gone.
    pub fn send_reserved(&self, item: T, reservation: Reservation) -> Result<(), Disconnected> {
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
        // It ends after all.
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
