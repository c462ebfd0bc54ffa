//! How many clients may be in a handshake at once, and who gives way when there are more.
//!
//! A client that is silent, or sends a byte now and then, keeps its place until its
//! handshake times out; thousands of those must not keep others out. So the oldest
//! handshake gives way to the next client, once it has lasted for much longer than any
//! that is meant.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// Before that no handshake has to give way.
const GRACE: Duration = Duration::from_secs(1);

/// The handshakes under way, of all inbound listeners of a proxy.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    places: Mutex<Places>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    /// By number, so the oldest first.
    taken: BTreeMap<u64, (Instant, Arc<Notify>)>,
}

/// One handshake's place, until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    handshakes: Arc<Handshakes>,
    number: u64,
    give_way: Arc<Notify>,
}

#[derive(Debug, PartialEq, Eq)]
enum Room {
    Free,
    /// The oldest was told to give way.
    Made,
    /// Then the oldest has had its time.
    Wait(Duration),
}

impl Handshakes {
    /// Waits until fewer than `most` are under way; answers whether one had to give way.
    pub(super) async fn room(&self, most: usize) -> bool {
        loop {
            match self.make_room(most, Instant::now()) {
                Room::Free => return false,
                Room::Made => return true,
                Room::Wait(wait) => {
                    let _ = timeout(wait, self.freed.notified()).await;
                }
            }
        }
    }

    fn make_room(&self, most: usize, now: Instant) -> Room {
        let mut places = self.places();
        if places.taken.len() < most.max(1) {
            return Room::Free;
        }
        let Some(oldest) = places.taken.first_entry() else {
            return Room::Free;
        };
        let wait = GRACE.saturating_sub(now.saturating_duration_since(oldest.get().0));
        if wait.is_zero() {
            oldest.remove().1.notify_one();
            Room::Made
        } else {
            Room::Wait(wait)
        }
    }

    /// Takes a place.
    pub(super) fn begin(self: &Arc<Self>) -> Place {
        let give_way = Arc::new(Notify::new());
        let mut places = self.places();
        let number = places.next;
        places.next += 1;
        let taken = (Instant::now(), Arc::clone(&give_way));
        places.taken.insert(number, taken);
        Place {
            handshakes: Arc::clone(self),
            number,
            give_way,
        }
    }

    /// How many are under way.
    pub(super) fn len(&self) -> usize {
        self.places().taken.len()
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits until another needs the place.
    pub(super) async fn needed(&self) {
        self.give_way.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.handshakes.places().taken.remove(&self.number);
        self.handshakes.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_gives_way_once_it_has_had_its_time() {
        let handshakes = Arc::new(Handshakes::default());
        let began = Instant::now();
        let (first, second) = (handshakes.begin(), handshakes.begin());
        assert_eq!(handshakes.make_room(3, began), Room::Free);
        assert!(matches!(handshakes.make_room(2, began), Room::Wait(wait) if wait >= GRACE));
        let later = Instant::now() + GRACE;
        assert_eq!(handshakes.make_room(2, later), Room::Made);
        first.needed().await;
        assert_eq!(handshakes.make_room(2, later), Room::Free);
        // Its place is not freed twice.
        let _third = handshakes.begin();
        drop(first);
        assert_eq!(handshakes.len(), 2);
        assert_eq!(handshakes.make_room(2, later), Room::Made);
        second.needed().await;
    }

    #[tokio::test]
    async fn one_that_ends_makes_room_at_once() {
        let handshakes = Arc::new(Handshakes::default());
        let place = handshakes.begin();
        assert!(matches!(
            handshakes.make_room(1, Instant::now()),
            Room::Wait(_)
        ));
        let (gave_way, ()) = tokio::join!(handshakes.room(1), async { drop(place) });
        assert!(!gave_way);
        assert_eq!(handshakes.len(), 0);
    }
}
