//! Credential helpers: the programs docker-credential-NAME.

use crate::credentials::credential::Credential;
use crate::secret::Secret;
use error::{Error, io_reason};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::Deserialize;
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// Maximum output of a helper, in bytes.
const OUTPUT_MAX: u64 = 1 << 20;

/// Output of `docker-credential-NAME get`.
#[derive(Deserialize)]
struct HelperOutput {
    #[serde(rename = "Username", default)]
    user: String,
    #[serde(rename = "Secret", default)]
    secret: String,
}

/// Gets the credentials for `server` from docker-credential-`name`; `None` if it has none.
///
/// # Errors
/// `NotPermitted` if the helper is not installed, fails, or takes longer than `limit`.
pub fn get(name: &str, server: &str, limit: Duration) -> Result<Option<Credential>, Error> {
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if name.is_empty() || !name.bytes().all(is_name) {
        let reason = format!("the name \"{name}\" is invalid");
        return Err(Error::not_permitted("find a credential helper", reason));
    }
    let program = format!("docker-credential-{name}");
    let answer = run(&program, server, limit).and_then(|(status, output)| parse_output(status, &output));
    answer.map_err(|reason| {
        let error = Error::not_permitted(format!("get credentials for {server} from {program}"), reason);
        error.hint("check credHelpers and credsStore in the credentials file")
    })
}

/// Parses the output. Errors do not quote it: it may be the secret.
fn parse_output(status: ExitStatus, output: &[u8]) -> Result<Option<Credential>, String> {
    if !status.success() {
        // The only failure that is a result. All helpers that use docker-credential-helpers print this text.
        let text = String::from_utf8_lossy(output);
        return if text.contains("credentials not found") {
            Ok(None)
        } else {
            Err(format!("it failed ({status})"))
        };
    }
    let printed: HelperOutput = serde_json::from_slice(output).map_err(|_| "its output is not valid JSON")?;
    if printed.secret.is_empty() {
        return Ok(None);
    }
    let secret = Secret::new(printed.secret);
    // The user name "<token>" marks an identity token: docker/cli, types.AuthConfig.
    Ok(Some(match printed.user.as_str() {
        "<token>" => Credential::Identity { user: String::new(), token: secret },
        _ => Credential::Password { user: printed.user, password: secret },
    }))
}

fn run(program: &str, server: &str, limit: Duration) -> Result<(ExitStatus, Vec<u8>), String> {
    let deadline = Instant::now() + limit;
    let mut command = Command::new(program);
    command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    // Its own process group, so that its children can be killed too.
    command.process_group(0);
    let mut child = command.spawn().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => "it is not installed".to_string(),
        _ => format!("it cannot be started: {}", io_reason(&e)),
    })?;
    let outcome = exchange(&mut child, server, deadline);
    if outcome.is_err() {
        kill_group(&mut child);
    }
    outcome.map_err(|reason| {
        reason.unwrap_or_else(|| format!("it did not finish within {} s", limit.as_secs_f32()))
    })
}

/// Exchanges input and output with the helper. `Err(None)` is a timeout.
fn exchange(
    child: &mut Child,
    server: &str,
    deadline: Instant,
) -> Result<(ExitStatus, Vec<u8>), Option<String>> {
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that does not read its input may still print a result; a host name fits in any pipe.
        drop(stdin.write_all(server.as_bytes()));
    }
    let Some(stdout) = child.stdout.take() else { return Err(Some("its output cannot be read".into())) };
    let (send, receive) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = Vec::new();
        let read = stdout.take(OUTPUT_MAX + 1).read_to_end(&mut output).map(|_| output);
        // After a timeout, the receiver is gone.
        drop(send.send(read));
    });
    let left = deadline.saturating_duration_since(Instant::now());
    let output = receive
        .recv_timeout(left)
        .map_err(|_| None)?
        .map_err(|e| Some(format!("its output cannot be read: {}", io_reason(&e))))?;
    if output.len() as u64 > OUTPUT_MAX {
        return Err(Some(format!("it printed more than {OUTPUT_MAX} bytes")));
    }
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Ok((status, output)),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => return Err(None),
            Err(e) => return Err(Some(format!("it cannot be waited for: {}", io_reason(&e)))),
        }
    }
}

fn kill_group(child: &mut Child) {
    // The process group still belongs to the child as long as the child has not been waited for.
    if let Ok(pid) = i32::try_from(child.id()) {
        // The group may have ended by itself.
        let _gone = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    drop(child.wait());
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Runs a shell script in place of a helper.
    fn answer(script: &str, limit: Duration) -> Result<(ExitStatus, Vec<u8>), String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("docker-credential-test");
        std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
        loop {
            let outcome = run(file.to_str().unwrap(), "h.example", limit);
            // Another test's fork may still hold the script open for writing (ETXTBSY).
            if !outcome.as_ref().is_err_and(|reason| reason.contains("Text file busy")) {
                return outcome;
            }
        }
    }

    #[test]
    fn a_helper_reads_stdin_and_prints_to_stdout() {
        let (status, output) =
            answer("printf '%s' \"$1 $(cat)\"; echo noise >&2", Duration::from_secs(10)).unwrap();
        assert!(status.success());
        assert_eq!(output, b"get h.example");
    }

    #[test]
    fn output_is_parsed_and_never_quoted() {
        let check = |script: &str, meant: &str| {
            let (status, output) = answer(script, Duration::from_secs(10)).unwrap();
            let shown = match parse_output(status, &output) {
                Ok(Some(Credential::Password { user, password })) => format!("{user}:{}", password.reveal()),
                Ok(Some(Credential::Identity { token, .. })) => format!("identity {}", token.reveal()),
                other => format!("{other:?}"),
            };
            assert!(shown.contains(meant) && !shown.contains("s3cret"), "{script}: {shown}");
        };
        check(r#"echo '{"ServerURL":"h","Username":"u","Secret":"p"}'"#, "u:p");
        check(r#"echo '{"Username":"<token>","Secret":"t"}'"#, "identity t");
        check(r#"echo '{"Username":"u","Secret":""}'"#, "Ok(None)");
        check("echo credentials not found in native keychain; exit 1", "Ok(None)");
        check("echo s3cret; exit 1", "it failed (exit status: 1)");
        check("echo s3cret", "not valid JSON");
        check("kill -9 $$", "it failed (signal: 9");
    }

    #[test]
    fn a_hanging_helper_is_killed_with_its_children() {
        let began = Instant::now();
        let reason = answer("sleep 60; echo", Duration::from_millis(300)).unwrap_err();
        assert!(reason.contains("did not finish within 0.3 s"), "{reason}");
        // Without an end to its children the pipe would stay open for a minute; so would a helper that only ran on.
        assert!(answer("exec >&-; sleep 60", Duration::from_millis(300)).is_err());
        assert!(began.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn too_much_output_is_refused() {
        let reason = answer("head -c 3000000 /dev/zero", Duration::from_secs(10)).unwrap_err();
        assert!(reason.contains("more than"), "{reason}");
    }

    #[test]
    fn an_absent_or_invalid_helper_is_reported() {
        let error = get("multiarch-absent", "h", Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains("docker-credential-multiarch-absent: it is not installed"), "{error}");
        for name in ["../../tmp/x", "a b", ""] {
            assert!(
                get(name, "h", Duration::from_secs(1)).unwrap_err().to_string().contains("is invalid"),
                "{name}"
            );
        }
    }
}
