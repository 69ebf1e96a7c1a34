//! `alarm`: what members complain of, and telling them that it is over.

use std::ffi::OsString;

use clap::Args;
use clap::Subcommand;
use prost::Message;

use crate::ctl::context::Context;
use crate::ctl::failure::Failure;
use crate::ctl::json::Json;
use crate::ctl::render::Page;
use crate::ctl::render::Render;
use crate::proto::etcdserverpb::AlarmMember;
use crate::proto::etcdserverpb::AlarmRequest;
use crate::proto::etcdserverpb::AlarmResponse;
use crate::proto::etcdserverpb::AlarmType;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;

/// Alarm related commands
#[derive(Debug, Args)]
pub struct Alarm {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Disarms all alarms
    #[command(override_usage = "disarm")]
    Disarm(Words),
    /// Lists all alarms
    #[command(override_usage = "list")]
    List(Words),
}

#[derive(Debug, Args)]
struct Words {
    #[arg(hide = true)]
    words: Vec<OsString>,
}

impl Alarm {
    pub async fn run(self, context: &mut Context) -> Result<(), Failure> {
        let (name, words, action) = match self.command {
            Command::Disarm(words) => ("disarm", words, AlarmAction::Deactivate),
            Command::List(words) => ("list", words, AlarmAction::Get),
        };
        if !words.words.is_empty() {
            return Err(Failure::args(format!(
                "alarm {name} command accepts no arguments"
            )));
        }
        let maintenance = context.client().await?.maintenance();
        let request = |action: AlarmAction, member: AlarmMember| AlarmRequest {
            action: action.into(),
            member_id: member.member_id,
            alarm: member.alarm,
        };
        let get = request(AlarmAction::Get, AlarmMember::default());
        let raised = maintenance.alarm(get).await?;
        if action == AlarmAction::Get {
            return context.print(&raised);
        }
        let mut disarmed = AlarmResponse::default();
        for alarm in raised.alarms {
            let response = maintenance.alarm(request(action, alarm)).await?;
            disarmed.alarms.extend(response.alarms);
        }
        context.print(&disarmed)
    }
}

/// An alarm as etcd writes it in sentences; nothing for a member 0.
fn describe(alarm: &AlarmMember) -> String {
    let member = match alarm.member_id {
        0 => String::new(),
        id => format!("memberID:{id} "),
    };
    let kind = match alarm.alarm() {
        AlarmType::None => String::new(),
        kind => format!("alarm:{}", kind.as_str_name()),
    };
    format!("{member}{kind}")
}

impl Render for AlarmResponse {
    fn simple(&self, page: &mut Page) {
        self.alarms
            .iter()
            .for_each(|alarm| page.line(describe(alarm)));
    }

    fn fields(&self, page: &mut Page) {
        page.header(&self.header);
        for alarm in &self.alarms {
            page.id("MemberID", alarm.member_id);
            page.field("AlarmType", alarm.alarm().as_str_name());
            page.line("");
        }
    }

    fn json(&self, _: bool) -> Json {
        Json::message("AlarmResponse", self)
    }

    fn protobuf(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}
