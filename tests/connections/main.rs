//! Connections beyond what is usual: too many, too old, through load balancers and unix
//! sockets, from peers that mean harm.

mod limits;
mod proxy_protocol;
mod sockets;
