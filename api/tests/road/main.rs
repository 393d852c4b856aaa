//! The API as its clients meet it: over HTTP and through `Client`, against a whole server in memory.

mod http;
mod https;
mod lists;

mod watches;
mod writes;
