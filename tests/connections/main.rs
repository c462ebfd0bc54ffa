//! Connections beyond what is usual: too many, too old, through load balancers and unix
//! sockets, from peers that mean harm.

mod applications;
mod counting;
mod hostile;
mod limits;
mod proxy_protocol;
mod scene;
mod sockets;
mod storm;
mod strangers;
