//! The documents in force, from which instances are rebuilt.

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_core::policy::{Document, LoadReport};
use portcullis_core::time::Timestamp;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::cache::hex;

/// The document that all services share.
const MESH: &str = "mesh";

/// What the names of key sets begin with.
const KEY_SETS: &str = "jwks/";

/// Staleness budget of a mesh document that names none: 24 hours.
const MAX_STALE: u64 = 86_400_000;

/// Documents by their folded names.
#[derive(Clone, Default)]
pub(super) struct Documents {
    /// SHA-256 of the component that judges by them; zeros without one.
    component: [u8; 32],
    by_name: BTreeMap<String, Entry>,
    mesh: Option<Mesh>,
}

#[derive(Clone)]
struct Entry {
    body: Arc<[u8]>,
    digest: [u8; 32],
    confirmed_at: Timestamp,
}

/// What certificates were verified with: the mesh document, and by which component.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeshVersion {
    /// SHA-256 of the document: trust domain, roots, peers.
    pub digest: [u8; 32],
    /// SHA-256 of the component that judges by it; zeros without one.
    pub component: [u8; 32],
    /// Differs for every document that was ever in force here, also for equal ones,
    /// and after each change of the component.
    pub epoch: u64,
}

#[derive(Clone, Copy)]
struct Mesh {
    version: MeshVersion,
    max_stale: u64,
}

impl Documents {
    /// No documents, for the component with this SHA-256.
    pub(super) fn of(component: [u8; 32]) -> Self {
        Self {
            component,
            ..Self::default()
        }
    }

    /// The same documents, judged from `generation` on by another component: what the
    /// one before verified is worth nothing.
    pub(super) fn judged_by(&mut self, component: [u8; 32], generation: u64) {
        self.component = component;
        if let Some(mesh) = &mut self.mesh {
            mesh.version.component = component;
            mesh.version.epoch = generation;
        }
    }

    /// Takes over what a component accepted as `generation`.
    pub(super) fn accept(&mut self, generation: u64, changes: &[Document], report: &LoadReport) {
        for change in changes {
            if report
                .refused
                .iter()
                .any(|problem| problem.document == change.name)
            {
                continue;
            }
            let name = folded(&change.name);
            let entry = change.body.as_ref().map(|body| Entry {
                body: body.as_slice().into(),
                digest: Sha256::digest(body).into(),
                confirmed_at: change.confirmed_at,
            });
            if name == MESH {
                self.replace_mesh(generation, entry.as_ref());
            }
            match entry {
                Some(entry) => self.by_name.insert(name, entry),
                None => self.by_name.remove(&name),
            };
        }
    }

    fn replace_mesh(&mut self, generation: u64, entry: Option<&Entry>) {
        let unchanged = self
            .mesh
            .zip(entry)
            .is_some_and(|(mesh, entry)| mesh.version.digest == entry.digest);
        if !unchanged {
            self.mesh = entry.and_then(|entry| {
                let version = MeshVersion {
                    digest: entry.digest,
                    component: self.component,
                    epoch: generation,
                };
                Some(Mesh {
                    version,
                    max_stale: max_stale(&entry.body)?,
                })
            });
        }
    }

    /// The agent has confirmed these; no names mean all.
    pub(super) fn touch<S: AsRef<str>>(&mut self, names: &[S], confirmed_at: Timestamp) {
        if names.is_empty() {
            self.by_name
                .values_mut()
                .for_each(|entry| entry.confirmed_at = confirmed_at);
        }
        for name in names {
            if let Some(entry) = self.by_name.get_mut(&folded(name.as_ref())) {
                entry.confirmed_at = confirmed_at;
            }
        }
    }

    /// All of them, as a fresh instance loads them.
    pub(super) fn all(&self) -> Vec<Document> {
        self.by_name
            .iter()
            .map(|(name, entry)| Document {
                name: name.clone(),
                body: Some(entry.body.to_vec()),
                confirmed_at: entry.confirmed_at,
            })
            .collect()
    }

    /// SHA-256 over the sorted names and bodies, in lower-case hexadecimal: equal on
    /// every host that has the same documents in force.
    pub(super) fn digest(&self) -> String {
        let mut hash = Sha256::new();
        for (name, entry) in &self.by_name {
            hash.update(u64::try_from(name.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update(entry.digest);
        }
        hex(&hash.finalize())
    }

    /// The mesh document, unless at `now` it is older than its budget.
    pub(super) fn mesh_version(&self, now: Timestamp) -> Option<MeshVersion> {
        let (mesh, entry) = self.mesh.as_ref().zip(self.by_name.get(MESH))?;
        let fresh = mesh.max_stale == 0 || now.millis_since(entry.confirmed_at) <= mesh.max_stale;
        fresh.then_some(mesh.version)
    }
}

/// Names are compared without regard to ASCII case, as the core does; but not those of
/// key sets, whose providers differ by case there.
fn folded(name: &str) -> String {
    match name.starts_with(KEY_SETS) {
        true => name.to_owned(),
        false => name.to_ascii_lowercase(),
    }
}

/// The staleness budget in a mesh document; `None` if it cannot be read, and then
/// nothing is remembered under it.
fn max_stale(body: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Budget {
        max_stale_ms: Option<u64>,
    }
    let budget: Budget = serde_json::from_slice(body).ok()?;
    Some(budget.max_stale_ms.unwrap_or(MAX_STALE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_core::policy::LoadProblem;

    fn document(name: &str, body: Option<&str>) -> Document {
        Document {
            name: name.to_owned(),
            body: body.map(|body| body.as_bytes().to_vec()),
            confirmed_at: Timestamp::from_millis(1_000),
        }
    }

    fn accepted(changes: &[(&str, Option<&str>)]) -> Documents {
        let mut documents = Documents::default();
        for (generation, (name, body)) in (1..).zip(changes) {
            documents.accept(generation, &[document(name, *body)], &LoadReport::default());
        }
        documents
    }

    #[test]
    fn the_digest_depends_on_names_and_bodies_only() {
        let one = accepted(&[("a", Some("1")), ("b", Some("2"))]);
        let other = accepted(&[
            ("b", Some("9")),
            ("B", Some("2")),
            ("c", Some("3")),
            ("a", Some("1")),
            ("c", None),
        ]);
        assert_eq!(one.digest(), other.digest());
        assert_ne!(
            one.digest(),
            accepted(&[("a", Some("2")), ("b", Some("1"))]).digest()
        );
        assert_ne!(one.digest(), accepted(&[("a", Some("1"))]).digest());
    }

    #[test]
    fn key_sets_keep_the_case_of_their_provider() {
        let documents = accepted(&[("jwks/Okta", Some("1")), ("jwks/okta", Some("2"))]);
        let names: Vec<_> = documents.all().into_iter().map(|one| one.name).collect();
        assert_eq!(names, ["jwks/Okta", "jwks/okta"]);
    }

    #[test]
    fn what_was_refused_does_not_replace_anything() {
        let mut documents = accepted(&[("a", Some("good"))]);
        let refused = LoadProblem {
            document: "a".to_owned(),
            pointer: String::new(),
            text: String::new(),
        };
        let report = LoadReport {
            refused: vec![refused],
            warnings: Vec::new(),
        };
        documents.accept(
            2,
            &[document("a", Some("bad")), document("b", Some("2"))],
            &report,
        );
        let bodies: Vec<_> = documents
            .all()
            .into_iter()
            .filter_map(|document| document.body)
            .collect();
        assert_eq!(bodies, [b"good".to_vec(), b"2".to_vec()]);
    }

    #[test]
    fn a_mesh_document_that_comes_back_has_another_epoch() {
        let now = Timestamp::from_millis(1_000);
        let version = |changes: &[(&str, Option<&str>)]| accepted(changes).mesh_version(now);
        let (a, b) = (("mesh", Some("{}")), ("mesh", Some("{\"x\":1}")));
        assert_eq!(version(&[]), None);
        assert_eq!(version(&[a]), version(&[a, a]));
        assert_ne!(version(&[a]), version(&[a, b, a]));
        assert_ne!(version(&[a]), version(&[a, ("mesh", None), a]));
        assert_eq!(version(&[a, ("mesh", None)]), None);
        assert_eq!(version(&[("mesh", Some("no json"))]), None);
    }

    #[test]
    fn another_component_makes_another_version_of_the_same_mesh() {
        let now = Timestamp::from_millis(1_000);
        let mut documents = accepted(&[("mesh", Some("{}"))]);
        let (digest, before) = (documents.digest(), documents.mesh_version(now));
        documents.judged_by([1; 32], 2);
        let after = documents.mesh_version(now);
        assert_ne!(before, after);
        assert_eq!(
            before.map(|mesh| mesh.digest),
            after.map(|mesh| mesh.digest)
        );
        assert_eq!(digest, documents.digest(), "it is about documents alone");
        documents.judged_by([0; 32], 3);
        assert_ne!(
            before,
            documents.mesh_version(now),
            "nor when it comes back"
        );
    }

    #[test]
    fn a_stale_mesh_document_has_no_version() {
        let mut documents = accepted(&[("mesh", Some("{\"max_stale_ms\":500}"))]);
        let at = Timestamp::from_millis;
        assert!(documents.mesh_version(at(1_500)).is_some());
        assert!(documents.mesh_version(at(1_501)).is_none());
        documents.touch::<&str>(&[], at(1_501));
        assert!(documents.mesh_version(at(2_001)).is_some());
        assert!(documents.mesh_version(Timestamp::MAX).is_none());
        assert!(
            accepted(&[("mesh", Some("{\"max_stale_ms\":0}"))])
                .mesh_version(Timestamp::MAX)
                .is_some()
        );
    }
}
