//! Compilation ahead of time.
//!
//! Compiling leaves some 70 MB behind in the process that does it, so a command
//! lets a short-lived copy of itself do it: `PROGRAM __compile` reads the component
//! from its input and writes machine code to its output.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

use super::engine::{engine, portable_engine};

/// The argument that makes a program call [`compile_stdin_to_stdout`].
pub const COMPILE_ARGUMENT: &str = "__compile";

/// What a program does when it is started with [`COMPILE_ARGUMENT`].
///
/// # Errors
/// When input or output fail, or the input is not a component. The text is one line.
pub fn compile_stdin_to_stdout() -> Result<(), String> {
    let mut wasm = Vec::new();
    io::stdin()
        .lock()
        .read_to_end(&mut wasm)
        .map_err(|error| format!("cannot read the component: {error}"))?;
    let compiled = in_process(&wasm)?;
    let mut output = io::stdout().lock();
    output
        .write_all(&compiled)
        .and_then(|()| output.flush())
        .map_err(|error| format!("cannot write the compiled component: {error}"))
}

/// Machine code for `wasm`, made by `program` where one is given.
pub(super) fn compile(wasm: &[u8], program: Option<&Path>) -> Result<Vec<u8>, String> {
    if let Some(program) = program {
        match by_child(wasm, program) {
            Ok(compiled) => return Ok(compiled),
            // The component may be at fault: then we find out what it is.
            Err(error) => tracing::debug!(%error, "the component is compiled in this process"),
        }
    }
    in_process(wasm)
}

fn in_process(wasm: &[u8]) -> Result<Vec<u8>, String> {
    engine()?
        .precompile_component(wasm)
        .map_err(|error| one_line(&error))
}

/// Machine code for every processor of this kind.
pub(super) fn compile_portably(wasm: &[u8]) -> Result<Vec<u8>, String> {
    portable_engine()?
        .precompile_component(wasm)
        .map_err(|error| one_line(&error))
}

fn by_child(wasm: &[u8], program: &Path) -> io::Result<Vec<u8>> {
    let mut child = Command::new(program)
        .arg(COMPILE_ARGUMENT)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    // Dropped at the end of the statement, which ends the child's input.
    let sent = child
        .stdin
        .take()
        .map_or(Ok(()), |mut input| input.write_all(wasm));
    let answer = child.wait_with_output()?;
    sent?;
    if !answer.status.success() || answer.stdout.is_empty() {
        return Err(io::Error::other(format!(
            "`{} {COMPILE_ARGUMENT}` ended with {}",
            program.display(),
            answer.status
        )));
    }
    Ok(answer.stdout)
}

/// An error of wasmtime with its causes, in one line of bounded length.
pub(super) fn one_line(error: &wasmtime::Error) -> String {
    const LONGEST: usize = 400;
    let mut text = String::new();
    for part in format!("{error:#}").split_whitespace() {
        if text.len() + part.len() > LONGEST {
            text.push_str(" …");
            break;
        }
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(part);
    }
    text
}
