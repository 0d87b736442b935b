//! Tests the storage as a whole, on a disk in memory that fails, tears and forgets, and on a real
//! one. What holds throughout: announced implies recovered.

#[path = "storage/cursor.rs"]
mod cursor;
#[path = "storage/damage.rs"]
mod damage;
#[path = "storage/faults.rs"]
mod faults;
#[path = "storage/images/mod.rs"]
mod images;
#[path = "storage/model.rs"]
mod model;
#[path = "storage/promises.rs"]
mod promises;
#[path = "storage/real.rs"]
mod real;
#[path = "storage/samples.rs"]
mod samples;
#[path = "storage/sim.rs"]
mod sim;
