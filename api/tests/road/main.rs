//! The API as its clients meet it: over HTTP and through `Client`, against a whole server in memory.

mod audit;
mod client;
mod discovery;
mod hostile;
mod http;
mod https;
mod lifecycles;
mod lists;
mod patches;
mod pods;
mod services;
mod sessions;
mod streams;
mod watches;
mod writes;
