//! A cluster in virtual time, run by the machines of production.
