use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a mutex guards here is sound after each statement, so it is used even if somebody panicked meanwhile.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
