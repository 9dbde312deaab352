//! The promises of the proxy, over real connections. The backend behind it is a shelf of named things.

mod activation;
mod client;
mod cuts;
mod drain;
mod hostile;
mod images;
mod limits;
mod ranges;
mod refusals;
mod routing;
mod shelf;
mod transports;
