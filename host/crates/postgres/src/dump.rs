//! Dumps of a cluster's database, written and loaded by the programs beside its server.

use std::path::Path;
use std::process::Command;

use crate::discovery::{Made, Search};
use crate::error::{PostgresError, io_error};
use crate::identity::User;
use crate::initialise::{last_lines, major_of};
use crate::{Cluster, DATABASE, OWNER_ROLE};

impl Cluster {
    /// Writes a dump of the whole database, all of it as of one instant, to a new file (an absolute path). The server
    /// goes on serving.
    ///
    /// # Errors
    /// [`PostgresError::Io`] when there is no `pg_dump` beside the server's binaries, [`PostgresError::Program`] when it
    /// fails.
    pub fn dump(&self, bin_dir: Option<&Path>, file: &Path) -> Result<(), PostgresError> {
        let mut dump = self.program(bin_dir, "pg_dump")?;
        dump.args(["--format=custom", "--file"])
            .arg(file)
            .arg(self.url(OWNER_ROLE, DATABASE));
        run(dump)
    }

    /// Loads a dump into the database, which must be empty: whole or not at all. Roles are not in it.
    ///
    /// # Errors
    /// As [`Cluster::dump`], of `pg_restore`.
    pub fn load(&self, bin_dir: Option<&Path>, file: &Path) -> Result<(), PostgresError> {
        let mut load = self.program(bin_dir, "pg_restore")?;
        load.args(["--single-transaction", "--exit-on-error", "--dbname"])
            .arg(self.url(OWNER_ROLE, DATABASE))
            .arg(file);
        run(load)
    }

    /// A program of the version that made the cluster, run as ourselves, whom the server lets in.
    fn program(&self, bin_dir: Option<&Path>, name: &str) -> Result<Command, PostgresError> {
        let made = major_of(&self.data_dir)?.map(|major| Made {
            data_dir: &self.data_dir,
            major,
        });
        let installation = Search::from_environment(bin_dir).find(made)?;
        let mut command = User::current().command(&installation.program(name));
        command.arg("--no-password");
        Ok(command)
    }
}

fn run(mut command: Command) -> Result<(), PostgresError> {
    let program = Path::new(command.get_program()).to_owned();
    let output = command.output().map_err(io_error("run", &program))?;
    if output.status.success() {
        return Ok(());
    }
    Err(PostgresError::Program {
        program: program.display().to_string(),
        status: output.status.to_string(),
        output: last_lines(&String::from_utf8_lossy(&output.stderr), 12),
    })
}
