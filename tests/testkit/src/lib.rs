//! Test helpers: a certificate authority with one option per defect.
//!
//! ```
//! use portcullis_testkit::{Draft, TestCa};
//!
//! let ca = TestCa::new("mesh.example");
//! let good = ca.service("web").issue();
//! let bad = ca.service("web").with(Draft::expired).issue();
//! let worse = ca.service("web").with(|leaf| leaf.two_uris("spiffe://mesh.example/x")).issue();
//! assert_eq!(good.chain().len(), 1);
//! # let _ = (bad.key(), worse.pem());
//! ```
//!
//! rcgen makes the keys and signs; the certificates are written here, because no
//! library that means well writes the broken ones.

mod ca;
mod certificate;
mod der;
mod key;
mod pem;

pub use ca::{LeafDraft, TestCa, TestLeaf};
pub use certificate::Draft;
pub use key::{BadPublicKey, KeyType, SignatureAlgorithm};
pub use pem::certificate as pem;
