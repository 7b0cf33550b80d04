//! Running `nft`.

use crate::{Count, Listing, Name, NftError, Table, TableId};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The `nft` program. It works in the network namespace of the calling thread.
#[derive(Debug, Clone)]
pub struct Nft {
    program: PathBuf,
    limit: Duration,
}

impl Default for Nft {
    /// `nft` from `PATH`, with 30 s for each run: a table of 10,000 rules takes about 2 s.
    fn default() -> Self {
        let program = PathBuf::from("nft");
        let limit = Duration::from_secs(30);
        Self { program, limit }
    }
}

/// What applying a table did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// False if the kernel had the table already.
    pub changed: bool,
    /// Kept sets that are empty now and weren't there before: whoever fills them has to begin anew.
    pub fresh: Vec<Name>,
}

impl Applied {
    /// The table was made, or made of `present`.
    fn anew(table: &Table, present: Option<&Listing>) -> Self {
        let (changed, fresh) = (true, table.fresh_sets(present));
        Self { changed, fresh }
    }
}

/// Has nft's memory come in large pages, where the kernel gives them to those who ask. It takes megabytes in small pieces
/// and ends soon: without this a tenth of its time goes into asking for pages.
const LARGE_PAGES: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1");

impl Nft {
    /// Another program than `nft` from `PATH`.
    #[must_use]
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = program.into();
        self
    }

    /// Another time limit for each run, after which it is killed.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Makes the kernel's table equal to this one in one transaction, keeping what can be kept
    /// (see the [crate's docs](crate)). Does nothing if it is equal already.
    pub async fn apply(&self, table: &Table) -> Result<Applied, NftError> {
        let present = self.list(table.id()).await?;
        if let Some(present) = &present
            && present.holds(table)?
        {
            let (changed, fresh) = (false, Vec::new());
            return Ok(Applied { changed, fresh });
        }
        let script = match &present {
            Some(present) => table.updating(present)?,
            None => table.creating()?,
        };
        self.feed("update", table.id(), script).await?;
        Ok(Applied::anew(table, present.as_ref()))
    }

    /// The same for a table that is most likely not there: looks only if the kernel says that it is.
    pub async fn create(&self, table: &Table) -> Result<Applied, NftError> {
        let script = table.creating()?;
        match self.feed("create", table.id(), script).await {
            Ok(()) => Ok(Applied::anew(table, None)),
            Err(NftError::Refused { .. }) => self.apply(table).await,
            Err(error) => Err(error),
        }
    }

    /// Makes the kernel's table anew in one transaction: counters at zero, kept sets empty.
    pub async fn replace(&self, table: &Table) -> Result<(), NftError> {
        let script = table.replacing()?;
        self.feed("replace", table.id(), script).await
    }

    /// Asks `nft` whether it would accept the table, and changes nothing.
    pub async fn check(&self, table: &Table) -> Result<(), NftError> {
        let script = table.replacing()?;
        self.run("check", table.id(), &["-c", "-f", "-"], script)
            .await
            .map(|_| ())
    }

    /// Deletes a table with everything in it; no error if there is none.
    pub async fn delete(&self, id: &TableId) -> Result<(), NftError> {
        let script = format!("add table {id}\ndelete table {id}\n");
        self.feed("delete", id, script).await
    }

    /// What the kernel has of a table, `None` if nothing.
    pub async fn list(&self, id: &TableId) -> Result<Option<Listing>, NftError> {
        // Terse: no contents of sets, which may be large.
        self.listing("list", id, &["-j", "-t", "list", "table"])
            .await
    }

    /// What each counter of a table has seen; of a table that isn't there, nothing.
    pub async fn counters(&self, id: &TableId) -> Result<BTreeMap<String, Count>, NftError> {
        let what = "read the counters of";
        let listing = self.listing(what, id, &["-j", "list", "counters", "table"]);
        let counters = listing.await?.unwrap_or_default();
        let named = counters
            .counts()
            .map(|(name, count)| (name.to_owned(), count));
        Ok(named.collect())
    }

    async fn listing(
        &self,
        what: &'static str,
        id: &TableId,
        args: &[&str],
    ) -> Result<Option<Listing>, NftError> {
        let family = id.family.to_string();
        let mut args = args.to_vec();
        args.extend([family.as_str(), id.name.as_str()]);
        let output = match self.run(what, id, &args, String::new()).await {
            Ok(output) => output,
            // It may go on with a guess: "; did you mean table x in family ip?"
            Err(NftError::Refused { reason, .. })
                if reason.starts_with("No such file or directory") =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let listing = Listing::parse(&output.stdout).map_err(|error| NftError::Garbled {
            what,
            subject: id.to_string(),
            reason: error.to_string(),
        })?;
        Ok(Some(listing))
    }

    async fn feed(&self, what: &'static str, id: &TableId, script: String) -> Result<(), NftError> {
        self.run(what, id, &["-f", "-"], script).await.map(|_| ())
    }

    async fn run(
        &self,
        what: &'static str,
        id: &TableId,
        args: &[&str],
        script: String,
    ) -> Result<Output, NftError> {
        let failed = |source| NftError::Process {
            what,
            subject: id.to_string(),
            program: self.program.clone(),
            source,
        };
        let mut child = Command::new(&self.program)
            .args(args)
            // Its complaints are parsed.
            .env("LC_ALL", "C")
            .env(LARGE_PAGES.0, LARGE_PAGES.1)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        let write = async {
            if let Some(mut stdin) = stdin {
                // A broken pipe means that it gave up early; it says why on stderr.
                let _ = stdin.write_all(script.as_bytes()).await;
            }
        };
        let both = async { tokio::join!(write, child.wait_with_output()).1 };
        let output = match tokio::time::timeout(self.limit, both).await {
            Ok(output) => output.map_err(failed)?,
            Err(_) => {
                return Err(NftError::TimedOut {
                    what,
                    subject: id.to_string(),
                    limit: self.limit,
                });
            }
        };
        if output.status.success() {
            return Ok(output);
        }
        let (reason, line) = complaint(&String::from_utf8_lossy(&output.stderr), &script);
        let reason = reason.unwrap_or_else(|| output.status.to_string());
        Err(NftError::Refused {
            what,
            subject: id.to_string(),
            reason,
            line,
        })
    }
}

/// The first error in what `nft` printed, and the line of the script that it points to.
fn complaint(stderr: &str, script: &str) -> (Option<String>, Option<String>) {
    let Some(text) = stderr.lines().find(|line| line.contains("Error: ")) else {
        let first = stderr.lines().find(|line| !line.trim().is_empty());
        return (first.map(str::to_owned), None);
    };
    let (place, reason) = text.split_once("Error: ").unwrap_or(("", text));
    // "/dev/stdin:12:3-8: "
    let number = place
        .split(':')
        .nth(1)
        .and_then(|n| n.parse::<usize>().ok());
    let line = number.and_then(|n| script.lines().nth(n.saturating_sub(1)));
    let line = line.map(|line| line.trim().chars().take(300).collect());
    (Some(reason.to_owned()), line)
}

#[cfg(test)]
mod tests {
    use super::complaint;

    #[test]
    fn complaints_quote_the_line() {
        let stderr =
            "/dev/stdin:2:4-9: Error: No such file\n\tx y\n\t^^^\n/dev/stdin:3:1-1: Error: z";
        let (reason, line) = complaint(stderr, "one\n\ttwo x\nthree\n");
        assert_eq!(reason.as_deref(), Some("No such file"));
        assert_eq!(line.as_deref(), Some("two x"));
        let (reason, line) = complaint("Operation not permitted (you must be root)\n", "");
        assert_eq!(
            reason.as_deref(),
            Some("Operation not permitted (you must be root)")
        );
        assert_eq!(line, None);
        assert_eq!(complaint("", ""), (None, None));
    }
}
