//! What the process with the filesystems told of itself last.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_lazyfs::link::messages::Report;

type Latest = Arc<Mutex<Option<(u64, Report)>>>;

/// The last report, as long as who made it is there. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reports(Latest);

/// A connection over which reports may come. What it said is forgotten with it.
#[derive(Debug)]
pub(super) struct Reporter {
    latest: Latest,
    number: u64,
}

impl Reports {
    /// For the connection of this number.
    pub(super) fn reporter(&self, number: u64) -> Reporter {
        Reporter { latest: self.0.clone(), number }
    }

    /// Whether a filesystem that shows images is connected.
    pub(crate) fn is_there(&self) -> bool {
        lock(&self.0).is_some()
    }

    /// Nothing where no filesystem is connected.
    pub(crate) fn latest(&self) -> Option<Report> {
        lock(&self.0).as_ref().map(|(_, report)| report.clone())
    }
}

impl Reporter {
    pub(super) fn note(&self, report: Report) {
        *lock(&self.latest) = Some((self.number, report));
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let mut latest = lock(&self.latest);
        // Not what its successor said.
        if latest.as_ref().is_some_and(|(number, _)| *number == self.number) {
            *latest = None;
        }
    }
}

fn lock(latest: &Latest) -> MutexGuard<'_, Option<(u64, Report)>> {
    latest.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_said_goes_with_it_and_not_with_the_one_before() {
        let reports = Reports::default();
        let (old, new) = (reports.reporter(1), reports.reporter(2));
        let report = |bytes_read| Report { bytes_read, ..Report::default() };
        old.note(report(1));
        new.note(report(2));
        drop(old);
        assert_eq!(reports.latest(), Some(report(2)));
        drop(new);
        assert_eq!(reports.latest(), None);
    }
}
