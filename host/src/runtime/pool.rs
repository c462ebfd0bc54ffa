//! Live instances of one component, which all hold the same documents.
//!
//! Every seat has an instance that answers; besides, there is a spare one that is
//! loaded first. A new generation goes into the spares while the others go on
//! answering; when all of them have taken it, all are exchanged at once under the
//! locks of all seats. So no question is answered by a new generation and a later
//! one by an old, a load keeps nobody waiting, and documents that make a component
//! trap harm nothing but spares.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use portcullis_core::policy::{Document, LoadReport};
use portcullis_core::time::Timestamp;

use super::answer::Failure;
use super::brake::Brake;
use super::component::Component;
use super::documents::{Documents, MeshVersion};
use super::instance::Instance;
use super::limits::Limits;

/// So many instances may be rebuilt at once after a quiet time, and one more in this time.
pub(super) const REBUILDS: u32 = 8;
pub(super) const REBUILD_EVERY: Duration = Duration::from_millis(100);

/// What has happened to the instances of a policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Traps, limits, deadlines and impossible answers.
    pub failures: u64,
    /// Instances that were made anew after one of these.
    pub rebuilds: u64,
}

pub(super) struct Pool {
    limits: Limits,
    brake: Brake,
    failures: AtomicU64,
    rebuilds: AtomicU64,
    seats: Box<[Seat]>,
    /// What is in force. Changes under the locks of all seats.
    force: Mutex<InForce>,
    /// Held by whoever changes documents.
    spares: Mutex<Spares>,
}

#[derive(Clone)]
struct InForce {
    component: Component,
    generation: u64,
    documents: Documents,
    digest: String,
}

struct Spares {
    /// The last generation that was given out, whatever became of it.
    generation: u64,
    instances: Vec<Option<Instance>>,
}

/// On a cache line of its own: neighbours are locked by other threads.
#[repr(align(128))]
struct Seat(Mutex<Chair>);

/// The instance of a seat.
#[derive(Default)]
struct Chair {
    instance: Option<Instance>,
    /// The instance before it failed: the next one is a rebuild, which is braked.
    failed: bool,
}

impl Pool {
    /// A pool with one instance, which shows that the component works; the others
    /// are made when they are needed.
    pub(super) fn new(component: &Component, limits: Limits, size: usize) -> Result<Self, Failure> {
        let first = Chair {
            instance: Some(Instance::new(component, &limits)?),
            failed: false,
        };
        let chairs = std::iter::once(first).chain(std::iter::repeat_with(Chair::default));
        let size = size.max(1);
        let documents = Documents::of(component.digest());
        let force = InForce {
            component: component.clone(),
            generation: 0,
            digest: documents.digest(),
            documents,
        };
        Ok(Self {
            limits,
            failures: AtomicU64::new(0),
            rebuilds: AtomicU64::new(0),
            brake: Brake::new(Instant::now(), REBUILDS, REBUILD_EVERY),
            seats: chairs
                .take(size)
                .map(|chair| Seat(Mutex::new(chair)))
                .collect(),
            force: Mutex::new(force),
            spares: Mutex::new(Spares {
                generation: 0,
                instances: std::iter::repeat_with(|| None).take(size).collect(),
            }),
        })
    }

    pub(super) fn component(&self) -> Component {
        self.force().component.clone()
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Asks a free instance, preferably the one that this thread asked before. One
    /// that fails is dropped, and its question gets no second chance.
    pub(super) fn ask<R>(
        &self,
        question: impl FnOnce(&mut Instance) -> Result<R, Failure>,
    ) -> Result<R, Failure> {
        let mut chair = self.sit();
        let Some(instance) = &mut chair.instance else {
            return Err(Failure(
                "it failed too often and is rebuilt later".to_owned(),
            ));
        };
        question(instance).inspect_err(|failure| {
            chair.instance = None;
            chair.failed = true;
            self.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(component = self.component().name(), %failure, "the policy failed; its instance is replaced");
        })
    }

    /// A free seat with an instance if there is any, else one that is taken: whoever has it
    /// leaves an instance there. Only where every seat is empty, one of those.
    fn sit(&self) -> MutexGuard<'_, Chair> {
        let start = preferred();
        let order =
            || (0..self.seats.len()).map(|turn| start.wrapping_add(turn) % self.seats.len());
        let mut taken = None;
        for (index, seat) in
            order().filter_map(|index| self.seats.get(index).map(|seat| (index, seat)))
        {
            let mut chair = match seat.0.try_lock() {
                Ok(chair) => chair,
                Err(TryLockError::Poisoned(poisoned)) => seat.vacated(poisoned),
                Err(TryLockError::WouldBlock) => {
                    taken.get_or_insert(index);
                    continue;
                }
            };
            if chair.instance.is_some() || self.rebuild(&mut chair, index) {
                return chair;
            }
        }
        let index = taken.unwrap_or(start % self.seats.len());
        let mut chair = self.lock(index);
        if chair.instance.is_none() {
            self.rebuild(&mut chair, index);
        }
        chair
    }

    fn lock(&self, index: usize) -> MutexGuard<'_, Chair> {
        let seat = &self.seats[index];
        seat.0
            .lock()
            .unwrap_or_else(|poisoned| seat.vacated(poisoned))
    }

    /// Puts an instance with the documents in force onto an empty seat.
    fn rebuild(&self, chair: &mut Chair, index: usize) -> bool {
        if chair.failed && !self.brake.allows(Instant::now()) {
            return false;
        }
        let (component, generation, documents) = {
            let force = self.force();
            (
                force.component.clone(),
                force.generation,
                force.documents.all(),
            )
        };
        match self.fresh(&component, generation, &documents) {
            Ok(instance) => {
                if chair.failed {
                    self.rebuilds.fetch_add(1, Ordering::Relaxed);
                }
                *chair = Chair {
                    instance: Some(instance),
                    failed: false,
                };
                true
            }
            Err(failure) => {
                chair.failed = true;
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(component = component.name(), seat = index, %failure, "the policy cannot be rebuilt");
                false
            }
        }
    }

    fn fresh(
        &self,
        component: &Component,
        generation: u64,
        documents: &[Document],
    ) -> Result<Instance, Failure> {
        let mut instance = Instance::new(component, &self.limits)?;
        if generation > 0 {
            instance.load(generation, documents)?;
        }
        Ok(instance)
    }

    /// Loads into every instance, or into none. `published` is told as soon as they
    /// answer by it; those that were exchanged follow afterwards.
    pub(super) fn load(
        &self,
        changes: &[Document],
        published: impl FnOnce(),
    ) -> Result<LoadReport, Failure> {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        spares.generation = spares.generation.saturating_add(1);
        let generation = spares.generation;
        let before = self.force().clone();
        let report = match self.load_spares(&mut spares, &before, generation, changes) {
            Ok(report) => report,
            Err(failure) => {
                // They may have any generation now; the instances that answer have the good one.
                spares.instances.iter_mut().for_each(|spare| *spare = None);
                return Err(failure);
            }
        };
        let mut after = before;
        after.generation = generation;
        after.documents.accept(generation, changes, &report);
        after.digest = after.documents.digest();
        self.exchange(&mut spares, after);
        published();
        for spare in &mut spares.instances {
            if spare
                .as_mut()
                .is_some_and(|instance| instance.load(generation, changes).is_err())
            {
                *spare = None;
            }
        }
        Ok(report)
    }

    /// One spare for each seat that is taken, at least one, each with the changes.
    fn load_spares(
        &self,
        spares: &mut Spares,
        before: &InForce,
        generation: u64,
        changes: &[Document],
    ) -> Result<LoadReport, Failure> {
        let mut first: Option<LoadReport> = None;
        for (index, spare) in spares.instances.iter_mut().enumerate() {
            if index > 0 && self.lock(index).instance.is_none() {
                *spare = None;
                continue;
            }
            let instance = match spare {
                Some(instance) => instance,
                None => spare.insert(self.fresh(
                    &before.component,
                    before.generation,
                    &before.documents.all(),
                )?),
            };
            let report = instance.load(generation, changes)?;
            match &first {
                Some(first) if first.refused != report.refused => {
                    return Err(Failure(
                        "two of its instances disagree about the same documents".to_owned(),
                    ));
                }
                Some(_) => {}
                None => first = Some(report),
            }
        }
        first.ok_or_else(|| Failure("there is no instance".to_owned()))
    }

    /// Lets `component` judge by the documents in force, under a generation of its own:
    /// whatever was decided or verified before is judged again.
    pub(super) fn replace(&self, component: &Component) -> Result<(), Failure> {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        let mut after = self.force().clone();
        if after.generation > 0 {
            spares.generation = spares.generation.saturating_add(1);
            after.generation = spares.generation;
        }
        after.component = component.clone();
        after
            .documents
            .judged_by(component.digest(), after.generation);
        let fresh: Result<Vec<_>, Failure> = (0..self.seats.len())
            .map(|index| {
                // As in `load_spares`: the first seat is always served.
                let wanted = index == 0 || self.lock(index).instance.is_some();
                wanted.then(|| self.takes_over(&after)).transpose()
            })
            .collect();
        spares.instances = fresh?;
        self.exchange(&mut spares, after);
        spares.instances.iter_mut().for_each(|spare| *spare = None);
        Ok(())
    }

    /// An instance of another component that accepts every document in force.
    fn takes_over(&self, after: &InForce) -> Result<Instance, Failure> {
        let mut instance = Instance::new(&after.component, &self.limits)?;
        if after.generation > 0 {
            let report = instance.load(after.generation, &after.documents.all())?;
            if let Some(refused) = report.refused.first() {
                return Err(Failure(format!(
                    "it refuses the document `{}`, which is in force: {}",
                    refused.document, refused.text
                )));
            }
        }
        Ok(instance)
    }

    /// Publishes a generation: from here on, only instances that have it answer.
    fn exchange(&self, spares: &mut Spares, after: InForce) {
        let mut chairs: Vec<_> = (0..self.seats.len())
            .map(|index| self.lock(index))
            .collect();
        for (chair, spare) in chairs.iter_mut().zip(&mut spares.instances) {
            std::mem::swap(&mut chair.instance, spare);
            // Without a spare the seat is empty, and whoever takes it rebuilds it from the new documents.
            chair.failed &= chair.instance.is_none();
        }
        *self.force() = after;
    }

    /// Tells every instance that these documents are current.
    pub(super) fn touch<S: AsRef<str>>(&self, names: &[S], confirmed_at: Timestamp) {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        self.force().documents.touch(names, confirmed_at);
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        let touch = |instance: &mut Option<Instance>| {
            if let Some(touched) = instance
                && let Err(failure) = touched.touch(&names, confirmed_at)
            {
                self.failures.fetch_add(1, Ordering::Relaxed);
                tracing::error!(component = self.component().name(), %failure, "the policy failed; its instance is replaced");
                *instance = None;
                return true;
            }
            false
        };
        for index in 0..self.seats.len() {
            let mut chair = self.lock(index);
            chair.failed |= touch(&mut chair.instance);
        }
        for spare in &mut spares.instances {
            touch(spare);
        }
    }

    /// How often an instance failed, and was made anew after that.
    pub(super) fn counts(&self) -> Counts {
        Counts {
            failures: self.failures.load(Ordering::Relaxed),
            rebuilds: self.rebuilds.load(Ordering::Relaxed),
        }
    }

    pub(super) fn generation(&self) -> u64 {
        self.force().generation
    }

    pub(super) fn digest(&self) -> String {
        self.force().digest.clone()
    }

    /// The generation in force with its digest and its documents.
    pub(super) fn in_force(&self) -> (u64, String, Documents) {
        let force = self.force();
        (
            force.generation,
            force.digest.clone(),
            force.documents.clone(),
        )
    }

    pub(super) fn mesh_version(&self, now: Timestamp) -> Option<MeshVersion> {
        self.force().documents.mesh_version(now)
    }

    fn force(&self) -> MutexGuard<'_, InForce> {
        self.force.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// What was on the seat when a thread panicked there is in an unknown state.
    fn vacated<'a>(&self, poisoned: PoisonError<MutexGuard<'a, Chair>>) -> MutexGuard<'a, Chair> {
        let mut chair = poisoned.into_inner();
        *chair = Chair {
            instance: None,
            failed: true,
        };
        self.0.clear_poison();
        chair
    }
}

/// A number for each thread, so that threads spread over the seats and stay there.
pub(super) fn preferred() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: usize = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    MINE.with(|mine| *mine)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::component::ComponentOptions;
    use super::*;

    #[test]
    fn while_a_failed_instance_may_not_be_rebuilt_the_others_are_waited_for() {
        let component = Component::embedded(&ComponentOptions::default()).unwrap();
        let pool = Pool::new(&component, Limits::default(), 2).unwrap();
        pool.lock(1).failed = true;
        let (begin, begun) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        std::thread::scope(|scope| {
            let pool = &pool;
            scope.spawn(move || {
                // Whatever seat it prefers, there is one instance alone.
                while pool.brake.allows(Instant::now()) {}
                let asked = pool.ask(|_| {
                    begin.send(()).unwrap();
                    let _ = ended.recv();
                    Ok(())
                });
                assert!(asked.is_ok());
            });
            begun.recv().unwrap();
            // Threads that begin one after the other prefer different seats.
            let asking: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| pool.ask(|_| Ok(()))))
                .collect();
            while pool.brake.allows(Instant::now()) {}
            drop(end);
            for asked in asking {
                asked.join().unwrap().unwrap();
            }
        });
    }
}
