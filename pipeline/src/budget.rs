//! Memory promises between stages: queues that are bounded in bytes, and reservations.
//!
//! A reservation is taken before the work that needs the bytes and given back when dropped. Every
//! queue has a budget of its own and data flows one way, so a stage that waits never holds what a
//! later stage needs: the stages cannot block each other for ever.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Reservations are counted in this many bytes, because a semaphore's permits are limited.
const GRAIN_BYTES: u64 = 1024;

/// A number of bytes that may be in use at one time.
#[derive(Clone, Debug)]
pub struct Budget {
    grains: Arc<Semaphore>,
    grains_max: u32,
}

/// Bytes in use; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    permit: OwnedSemaphorePermit,
}

impl Reservation {
    /// Gives back what is more than `bytes`.
    pub fn shrink(&mut self, bytes: u64) {
        let kept = usize::try_from(bytes.div_ceil(GRAIN_BYTES)).unwrap_or(usize::MAX).max(1);
        drop(self.permit.split(self.permit.num_permits().saturating_sub(kept)));
    }
}

impl Budget {
    /// Makes a budget of `bytes`, rounded up to whole KiB.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let grains_max = u32::try_from(bytes.div_ceil(GRAIN_BYTES)).unwrap_or(u32::MAX).max(1);
        Self { grains: Arc::new(Semaphore::new(grains_max as usize)), grains_max }
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
        let reservation = self.budget.reserve(bytes).await;
        self.sender.send(Held { item, reservation }).map_err(|_| Disconnected)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Budget, byte_queue};

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
        held.shrink(1500);
        held.shrink(9000);
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
