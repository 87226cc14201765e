//! `velum officers`: who may sign in at the console. A password and the secret of an authenticator are shown once, when they
//! are made.

use clap::Subcommand;
use qrcode::{QrCode, render::unicode::Dense1x2};
use serde_json::json;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Failure, open_keystore, open_store, settings};
use crate::{
    domain::clock::{Clock, SystemClock},
    flows::{
        FlowError,
        officer_accounts::{Accounts, HandedOut},
    },
    settings::Role,
    store::{Conflict, KeyStore, Store, StoreError, Tenant},
};

#[derive(Subcommand)]
pub enum Command {
    /// Make an account, and print its first password and the secret of its authenticator, once
    Add {
        #[command(flatten)]
        who: Who,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the accounts
    List {
        /// Name or id of one tenant; without it, all
        #[arg(long)]
        tenant: Option<String>,
    },
    /// Give an officer another first password and another authenticator; every session ends
    Reset {
        #[command(flatten)]
        who: Who,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Let an officer in no more; every session ends at once
    Disable {
        #[command(flatten)]
        who: Who,
    },
}

#[derive(clap::Args)]
pub struct Who {
    /// Name or id of the tenant whose requests the officer answers
    #[arg(long)]
    tenant: String,
    /// What the officer signs in as: an e-mail address, or a name that no other officer of this installation has
    #[arg(value_parser = name)]
    name: String,
}

/// Longest name, in characters.
const NAME_MAX: usize = 200;

fn name(text: &str) -> Result<String, &'static str> {
    let name = text.trim();
    let good = (1..=NAME_MAX).contains(&name.chars().count()) && !name.chars().any(char::is_control);
    if good { Ok(name.to_owned()) } else { Err("a name has 1 to 200 characters, and none that cannot be seen") }
}

pub async fn run(command: Command) -> Result<(), Failure> {
    let settings = settings(Role::Tool)?;
    let desk = Desk { store: open_store(&settings).await?, keystore: open_keystore(&settings).await? };
    let now = SystemClock.now();
    match command {
        Command::Add { who, json } => {
            let tenant = desk.tenant(&who.tenant).await?;
            let handed_out = desk.accounts().add(tenant.id, &who.name, now).await;
            print(&who.name, &handed_out.map_err(|error| failed(&who.name, error))?, json)
        }
        Command::Reset { who, json } => {
            let tenant = desk.tenant(&who.tenant).await?;
            let handed_out = desk.accounts().reset(tenant.id, &who.name, now).await;
            print(&who.name, &handed_out.map_err(|error| failed(&who.name, error))?, json)
        }
        Command::Disable { who } => {
            let tenant = desk.tenant(&who.tenant).await?;
            let disabled = desk.accounts().disable(tenant.id, &who.name, now).await;
            println!("{} is disabled", disabled.map_err(|error| failed(&who.name, error))?);
            Ok(())
        }
        Command::List { tenant } => desk.list(tenant.as_deref()).await,
    }
}

struct Desk {
    store: Store,
    keystore: KeyStore,
}

impl Desk {
    fn accounts(&self) -> Accounts<'_> {
        Accounts { store: &self.store, keystore: &self.keystore }
    }

    async fn tenants(&self) -> Result<Vec<Tenant>, Failure> {
        self.store.tenants().list().await.map_err(|error| Failure::because("the tenants", error))
    }

    async fn tenant(&self, text: &str) -> Result<Tenant, Failure> {
        let known = |tenant: &Tenant| tenant.name == text || tenant.id.to_string() == text;
        let missing = || Failure::plain(format!("there is no tenant {text}")).next("see `velum clients list`");
        self.tenants().await?.into_iter().find(known).ok_or_else(missing)
    }

    async fn list(&self, tenant: Option<&str>) -> Result<(), Failure> {
        let tenants = match tenant {
            Some(text) => vec![self.tenant(text).await?],
            None => self.tenants().await?,
        };
        for tenant in tenants {
            let accounts = self.accounts().list(tenant.id).await;
            for account in accounts.map_err(|error| Failure::because("the officers", error))? {
                let state = match (account.disabled_at, account.password_until) {
                    (Some(_), _) => "disabled",
                    (None, Some(_)) => "invited",
                    (None, None) => "active",
                };
                let name = account.name.as_deref().unwrap_or("(name destroyed)");
                println!("{}  {}  {state:<8}  {name}", tenant.name, account.id);
            }
        }
        Ok(())
    }
}

fn print(name: &str, handed_out: &HandedOut, as_json: bool) -> Result<(), Failure> {
    let unusable = |error| Failure::because("the authenticator", error);
    let address = handed_out.authenticator.address().map_err(unusable)?;
    let (password, until) = (handed_out.password.expose_text(), day(handed_out.password_until));
    if as_json {
        let told = json!({
            "officer": handed_out.officer.to_string(),
            "name": name,
            "password": password,
            "password_until": until,
            "authenticator": address.as_str(),
        });
        println!("{told}");
        return Ok(());
    }
    println!("officer        {}\nname           {name}\npassword       {password}", handed_out.officer);
    println!("good until     {until}; it is changed at the first sign-in\nauthenticator  {}", address.as_str());
    if let Ok(code) = QrCode::new(address.as_bytes()) {
        // Light where a terminal is dark, which most are; the others are read by most apps as well.
        let mut picture = code.render::<Dense1x2>();
        picture.dark_color(Dense1x2::Light).light_color(Dense1x2::Dark);
        println!("\n{}", picture.build());
    }
    println!("Password and authenticator are shown this once. The officer signs in at /console.");
    Ok(())
}

fn day(at: OffsetDateTime) -> String {
    at.replace_nanosecond(0).ok().and_then(|at| at.format(&Rfc3339).ok()).unwrap_or_default()
}

fn failed(name: &str, error: FlowError) -> Failure {
    match &error {
        FlowError::NotFound => Failure::plain(format!("the tenant has no officer {name}")),
        FlowError::Internal(source)
            if matches!(source.downcast_ref(), Some(StoreError::Conflict(Conflict::OfficerName))) =>
        {
            Failure::plain(format!("another officer of this installation signs in as {name}"))
        }
        _ => Failure::because("the officers could not be reached", error),
    }
}
