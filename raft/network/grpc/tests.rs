//! The transport over real sockets and real certificates, on the loopback.

mod bed;
mod hostile;
mod lanes;
mod refusals;
