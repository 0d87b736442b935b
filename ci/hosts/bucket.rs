//! A server that speaks as S3 does, for tests: moto, with a bucket, and a key of who may use it.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::PATIENCE;
use crate::harness::process::{Process, print_if_failed};
use crate::harness::program::command;
use crate::python::python_with;

/// What it is called as a place of copies.
pub const PLACE: &str = "s3://histories/site1";
const MODULES: &[&str] = &["moto", "flask", "flask_cors", "py_partiql_parser"];

/// Writes down each request, and says where it serves. Who may ask is looked up here: not each moto
/// can. Where a file `puts` has a number, so many files may be put, and then it has no time for
/// more.
const SERVER: &str = r#"
import os, sys, threading
import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

folder, secured = sys.argv[1], sys.argv[2:]
puts = os.path.join(folder, "puts")
# Each line stands there before its request is answered.
asked = open(os.path.join(folder, "asked"), "ab", buffering=0)
key = Credentials("HOSTKEY", "a/word+of=its/own")
application = DomainDispatcherApplication(create_backend_app)

def refused(environ):
    words = environ.get("HTTP_AUTHORIZATION", "").partition(" ")[2].split(",")
    words = dict(word.strip().split("=", 1) for word in words if word)
    if words.get("Credential", "").split("/")[0] != key.access_key:
        return "InvalidAccessKeyId"
    variable = lambda name: name.upper().replace("-", "_")
    value = lambda name: environ.get("HTTP_" + variable(name)) or environ[variable(name)]
    headers = {name: value(name) for name in words["SignedHeaders"].split(";")}
    asked = AWSRequest(environ["REQUEST_METHOD"], url + environ["REQUEST_URI"], headers)
    asked.context["timestamp"] = headers["x-amz-date"]
    auth = S3SigV4Auth(key, "s3", "us-east-1")
    signed = auth.signature(auth.string_to_sign(asked, auth.canonical_request(asked)), asked)
    return None if signed == words["Signature"] else "SignatureDoesNotMatch"

def counted(environ, start):
    # What is brought whole is told from what is brought in parts.
    part = environ.get("HTTP_RANGE", "")
    asked.write(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']} {part}\n".encode())
    why = refused(environ)
    if why:
        said = f"<Error><Code>{why}</Code><Message>No.</Message></Error>".encode()
        start("403 Forbidden", [("Content-Length", str(len(said)))])
        return [said]
    if environ["REQUEST_METHOD"] == "PUT" and os.path.exists(puts):
        left = int(open(puts).read())
        if left == 0:
            start("503 Slow Down", [("Content-Length", "0")])
            return [b""]
        open(puts, "w").write(str(left - 1))
    return application(environ, start)

server = make_server("127.0.0.1", 0, counted, threaded=True, ssl_context=tuple(secured) or None)
url = f"http{'s' if secured else ''}://127.0.0.1:{server.server_port}"
threading.Thread(target=server.serve_forever, daemon=True).start()
named = {"aws_access_key_id": key.access_key, "aws_secret_access_key": key.secret_key}
client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", verify=False, **named)
client.create_bucket(Bucket="histories")
print("serves", url, key.access_key, key.secret_key, flush=True)
threading.Event().wait()
"#;

pub struct BucketServer {
    process: Process,
    folder: TempDir,
    variables: Vec<(&'static str, String)>,
}

impl BucketServer {
    /// With a certificate and its key, it speaks TLS.
    pub fn start(secured: &[&Path]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::new(python_with(MODULES, "s3"));
        command.args(["-c", SERVER]).arg(folder.path()).args(secured);
        let mut process = Process::spawn(&mut command);
        assert!(process.says("serves ", PATIENCE), "{}", process.said());
        let said = process.stdout.get();
        let serves = said.lines().find_map(|line| line.strip_prefix("serves ")).unwrap();
        let names = ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
        let variables = names.into_iter().zip(serves.split(' ').map(str::to_owned)).collect();
        Self { process, folder, variables }
    }

    pub fn url(&self) -> &str {
        &self.variables[0].1
    }

    /// The exit code of a command that knows the way, and what it says.
    pub fn runs(&self, arguments: &[&str]) -> (i32, String, String) {
        self.runs_with(&[], arguments)
    }

    /// With other variables.
    pub fn runs_with(
        &self,
        variables: &[(&str, &str)],
        arguments: &[&str],
    ) -> (i32, String, String) {
        let mut command = command();
        for (name, _) in std::env::vars() {
            if name.starts_with("AWS_") || name.to_lowercase().ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.envs(variables.iter().copied());
        let mut process = Process::spawn(command.args(arguments));
        let status = process.wait(PATIENCE).expect("it ends");
        (status.code().unwrap_or(-1), process.stdout.get(), process.stderr.get())
    }

    /// Paths of all requests of a method up to now, each with the part that was asked for.
    pub fn asked(&self, method: &str) -> Vec<String> {
        let said = std::fs::read_to_string(self.folder.path().join("asked")).unwrap();
        let asked = said.lines().filter_map(|line| line.strip_prefix(method));
        asked.map(|path| path.trim().to_owned()).collect()
    }

    /// How many files may be put from now on. None: any number.
    pub fn let_put(&self, puts: Option<u32>) {
        let path = self.folder.path().join("puts");
        match puts {
            Some(puts) => std::fs::write(path, puts.to_string()).unwrap(),
            None => std::fs::remove_file(path).unwrap(),
        }
    }
}

impl Drop for BucketServer {
    fn drop(&mut self) {
        print_if_failed("the bucket", &self.process.said());
    }
}
