//! Small messages on an open connection.

use anyhow::Result;

use crate::bench::Bench;
use crate::bench::client::Session;
use crate::bench::figures::Figure;
use crate::bench::stand::{Stand, columns, interleave};

/// Round trips of one slice.
const ROUND_TRIPS: u32 = 3_000;

pub(super) fn measure(bench: &mut Bench) -> Result<Vec<Figure>> {
    let trips = bench.settings.amount(ROUND_TRIPS);
    let (settings, application) = (bench.settings.clone(), bench.application.clone());
    let mut cpu = Figure::new("128-byte round trip: CPU", "us", Some(30.0));
    let mut wall = Figure::new("128-byte round trip: wall", "us", None);
    let stands = bench.stands()?;
    let mut sessions = Vec::new();
    for stand in stands.iter() {
        let session = Session::open(&stand.known, stand.running.address)?;
        sessions.push((stand.name().to_owned(), session));
    }
    let work = |stand: &Stand| {
        let session = sessions.iter_mut().find(|(name, _)| name == stand.name());
        let Some((_, session)) = session else {
            return Ok(());
        };
        let (message, mut buffer) = ([0x3c; 128], [0; 128]);
        for _ in 0..trips {
            session.round_trip(&message, &mut buffer)?;
        }
        Ok(())
    };
    interleave(stands, &application, &settings, work, |name, cost| {
        let per = f64::from(trips);
        cpu.add(name, cost.cpu.as_secs_f64() * 1e6 / per);
        wall.add(name, cost.wall.as_secs_f64() * 1e6 / per);
    })?;
    columns(&mut cpu, stands);
    columns(&mut wall, stands);
    for (_, session) in sessions {
        session.close()?;
    }
    application.settled(0)?;
    Ok(vec![cpu, wall])
}
