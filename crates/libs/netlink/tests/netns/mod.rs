//! Tests in a network namespace of their own.

use serde_json::Value;
use std::process::Command;

/// Runs `test` on a thread of its own in a new network namespace, which ends with the thread.
pub(crate) fn in_netns<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let body = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("root is needed");
        run("ip", &["link", "set", "lo", "up"]);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    };
    if let Err(panic) = std::thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// What `ip` says, words split at spaces.
pub(crate) fn ip(command: &str) -> Value {
    let args: Vec<&str> = ["-j", "-d", "-N"]
        .into_iter()
        .chain(command.split(' '))
        .collect();
    let text = run("ip", &args);
    serde_json::from_str(if text.trim().is_empty() { "[]" } else { &text }).unwrap()
}
