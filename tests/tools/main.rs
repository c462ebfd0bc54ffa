//! `portcullis test`, `lint` and `diff`: transcripts of real processes, live against a dev
//! agent and a real Consul, and what the linter claims beside a search for the opposite.

mod diff;
mod expectations;
mod lint;
mod live;
mod property;

use std::path::{Path, PathBuf};

use portcullis_tests::program::{Said, portcullis, run};
use serde_json::Value;

/// A folder with files, where commands run.
pub(crate) struct Folder(tempfile::TempDir);

impl Folder {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        for (name, content) in files {
            folder.write(name, content);
        }
        folder
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("made");
        std::fs::write(&path, content).expect("written");
        path
    }

    /// `portcullis ARGUMENTS` in the folder.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        run(portcullis(arguments.iter().copied()).current_dir(self.path()))
    }

    /// The same with `-output json`: exit status and document.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let all: Vec<&str> = arguments
            .iter()
            .copied()
            .chain(["-output", "json"])
            .collect();
        let said = self.run(&all);
        assert_eq!(said.err, "", "{said:?}");
        let document = serde_json::from_str(&said.out);
        (
            said.code,
            document.unwrap_or_else(|error| panic!("{error}: {said:?}")),
        )
    }

    /// A command that must fail with status 2, in one line that has all of `parts`.
    #[track_caller]
    pub(crate) fn refused(&self, arguments: &[&str], parts: &[&str]) {
        let said = self.run(arguments);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{said:?}");
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
        for part in parts {
            assert!(said.err.contains(part), "`{part}` is missing: {said:?}");
        }
    }
}

/// The intentions of the examples: `web` may read items, and nobody the rest.
pub(crate) const API: &str = r#"
Kind = "service-intentions"
Name = "api"
Sources = [
  {
    Name = "web"
    Permissions = [
      {
        Action = "deny"
        HTTP { PathPrefix = "/items/secret" }
      },
      {
        Action = "allow"
        HTTP {
          PathPrefix = "/items/"
          Methods    = ["GET"]
        }
      },
    ]
  },
  { Name = "batch" Action = "allow" },
]
"#;
