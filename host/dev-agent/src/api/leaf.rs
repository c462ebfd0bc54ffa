//! `/v1/agent/connect/ca/leaf/:service`: a certificate and its key.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng as _;
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::ca::leaf::{Leaf, service_uri};
use crate::core::{Core, Keep, State};
use crate::http::options::Options;
use crate::http::reply::{AGE, INDEX, Outcome, Reply, X_CACHE};

/// How long a leaf call blocks that does not say.
const LEAF_WAIT: Duration = Duration::from_secs(600);

impl Core {
    /// Answers with the service's certificate; a blocked caller gets a new one
    /// between 60 and 90 % of its life, or some seconds after a rotation.
    pub(super) async fn leaf(&self, options: &Options, service: &str) -> Outcome {
        if service.is_empty() {
            let text = "URI must be either service, agent, server, or kind";
            return Err(Reply::server_error(text));
        }
        if service.contains('/') {
            let domain = self.read(|state| state.ca.trust_domain());
            let uri = service_uri(&domain, &self.config.datacenter, service);
            let text = format!("SPIFFE ID is not in the expected format: {uri}");
            return Err(Reply::server_error(text));
        }
        // Asked on every call: a certificate that one token has fetched is not
        // for the next one.
        self.acl
            .resolve(&options.token)?
            .need_service_write(service)?;
        let deadline = Instant::now() + options.wait.unwrap_or(LEAF_WAIT);
        let mut changed = self.watch();
        // The certificate that a renewal was chosen for, and when it is due.
        let mut renewal: Option<(u64, OffsetDateTime)> = None;
        let mut waited = false;
        loop {
            let now = self.clock.now();
            let leaf = match self.current_leaf(service, now, options.index, renewal) {
                Ok(leaf) => leaf,
                Err(seen) => self.new_leaf(service, seen)?,
            };
            if options.index == 0 || leaf.index > options.index || Instant::now() >= deadline {
                let hit = options.index != 0 && !waited;
                return Ok(show(&leaf, hit, now));
            }
            waited = true;
            let due = match renewal {
                Some((of, at)) if of == leaf.index => at,
                _ => self.pick(&leaf, now),
            };
            renewal = Some((leaf.index, due));
            let mut wake = Instant::now() + positive(due - now);
            if let Some(at) = self.replacement(&leaf) {
                wake = wake.min(at);
            }
            tokio::select! {
                () = tokio::time::sleep_until(wake.min(deadline)) => {}
                woken = changed.changed() => if woken.is_err() {
                    return Ok(show(&leaf, false, now));
                },
            }
        }
    }

    /// The certificate that is kept; if another one is due, the index of the
    /// kept one, 0 for none.
    fn current_leaf(
        &self,
        service: &str,
        now: OffsetDateTime,
        index: u64,
        renewal: Option<(u64, OffsetDateTime)>,
    ) -> Result<Arc<Leaf>, u64> {
        self.read(|state| {
            let leaf = state.ca.leafs.get(service).ok_or(0u64)?;
            let (_, hard) = leaf.window(self.config.renewal_window);
            let due = now >= hard || renewal.is_some_and(|(of, at)| of == leaf.index && now >= at);
            let replaced = match (is_current(state, leaf), index) {
                (true, _) => false,
                (false, 0) => true,
                (false, _) => leaf.replace_at.is_some_and(|at| at <= Instant::now()),
            };
            if due || replaced {
                Err(leaf.index)
            } else {
                Ok(leaf.clone())
            }
        })
    }

    /// Makes a certificate, unless somebody else has since `seen`.
    fn new_leaf(&self, service: &str, seen: u64) -> Result<Arc<Leaf>, Reply> {
        let now = self.clock.second();
        self.write(Keep::InMemory, |state, index| {
            if let Some(kept) = state
                .ca
                .leafs
                .get(service)
                .filter(|kept| kept.index != seen)
            {
                return Ok((kept.clone(), false));
            }
            let issued = state.ca.issue(service, &self.config.datacenter, now, index);
            let leaf = issued.map_err(|error| Reply::server_error(error.to_string()))?;
            Ok((leaf.clone(), true))
        })
    }

    /// A random point between 60 % (or now) and 90 % of the certificate's life.
    fn pick(&self, leaf: &Leaf, now: OffsetDateTime) -> OffsetDateTime {
        let (soft, hard) = leaf.window(self.config.renewal_window);
        let from = soft.max(now);
        let span = positive(hard - from);
        from + rand::rng().random_range(Duration::ZERO..=span)
    }

    /// When a certificate of an old root is to be replaced; chosen on first sight.
    fn replacement(&self, leaf: &Leaf) -> Option<Instant> {
        if self.read(|state| is_current(state, leaf)) {
            return None;
        }
        let delay = rand::rng().random_range(Duration::ZERO..=self.config.rotation_delay);
        let at = Instant::now() + delay;
        let chosen = self.write(Keep::InMemory, |state, _| {
            let kept = state.ca.leafs.get_mut(&leaf.service);
            let at = kept.map(|kept| *Arc::make_mut(kept).replace_at.get_or_insert(at));
            Ok((at, leaf.replace_at.is_none()))
        });
        chosen.ok().flatten()
    }
}

fn is_current(state: &State, leaf: &Leaf) -> bool {
    state
        .ca
        .active()
        .is_some_and(|root| root.id == leaf.root_id)
}

fn positive(span: time::Duration) -> Duration {
    Duration::try_from(span).unwrap_or_default()
}

fn show(leaf: &Leaf, hit: bool, now: OffsetDateTime) -> Reply {
    let reply = Reply::json(leaf.json()).with(INDEX, &leaf.index.to_string());
    if hit {
        let age = positive(now - leaf.issued).as_secs().to_string();
        reply.with(X_CACHE, "HIT").with(AGE, &age)
    } else {
        reply.with(X_CACHE, "MISS")
    }
}
