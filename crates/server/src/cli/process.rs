//! With which code a server or a master ends.

use std::error::Error;

use moorline_blockvol::device::OpenDeviceError;
use moorline_master::{StopReason, store::embedded::EmbeddedStoreError};

use super::{CliError, Exit};
use crate::{
    config::ConfigError,
    master_service::MasterServiceError,
    serve::{ServeError, StoresError},
};

impl From<ServeError> for CliError {
    fn from(error: ServeError) -> Self {
        let exit = match &error {
            ServeError::Stores(stores) => stores_exit(stores),
            ServeError::Config(config) => config_exit(config),
            ServeError::StoreRefused { .. } => Exit::Unsafe,
            ServeError::Bind(_)
            | ServeError::Unix(_)
            | ServeError::Inherit(_)
            | ServeError::Process(_)
            | ServeError::Hasty => Exit::Failed,
        };
        ended("the server cannot go on", exit, error)
    }
}

/// Going on with a directory or store of somebody else, or with one that somebody else writes to,
/// could lose data.
fn stores_exit(error: &StoresError) -> Exit {
    match error {
        StoresError::InUse { .. }
        | StoresError::OtherServer { .. }
        | StoresError::BadIdentity { .. }
        | StoresError::Store(OpenDeviceError::AlreadyLocked { .. }) => Exit::Unsafe,
        StoresError::Store(OpenDeviceError::NotFound { .. }) => Exit::NotFound,
        StoresError::Store(_) | StoresError::Io { .. } => Exit::Failed,
    }
}

impl From<MasterServiceError> for CliError {
    fn from(error: MasterServiceError) -> Self {
        let exit = match &error {
            MasterServiceError::Config(config) => config_exit(config),
            MasterServiceError::Store(EmbeddedStoreError::InUse { .. })
            | MasterServiceError::Stopped(StopReason::Superseded)
            | MasterServiceError::Start(_) => Exit::Unsafe,
            MasterServiceError::Store(_)
            | MasterServiceError::Dir { .. }
            | MasterServiceError::Bind(_)
            | MasterServiceError::Process(_)
            | MasterServiceError::Stopped(_) => Exit::Failed,
        };
        ended("the master cannot go on", exit, error)
    }
}

/// Settings that do not fit together are a matter of usage, but for the one that opens a door.
pub(super) const fn config_exit(error: &ConfigError) -> Exit {
    match error {
        ConfigError::KeyRequired { .. } => Exit::Unsafe,
        ConfigError::Lease { .. } | ConfigError::NothingToAdvertise { .. } => Exit::Usage,
    }
}

fn ended(what: &'static str, exit: Exit, error: impl Error + Send + Sync + 'static) -> CliError {
    CliError::Process {
        what,
        exit,
        source: Box::new(error),
    }
}
