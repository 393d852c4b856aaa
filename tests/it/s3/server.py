"""A server that speaks S3 and checks signatures, with one bucket and one user who may use it.

Says on one line of JSON where it listens and what that user's access key is; runs until it is ended.
"""

import json
import signal
import sys
import urllib.request

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "backups"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
}


def main() -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    url = f"http://127.0.0.1:{port}"
    anybody = {
        "endpoint_url": url,
        "region_name": "us-east-1",
        "aws_access_key_id": "anybody",
        "aws_secret_access_key": "anything",
    }
    boto3.client("s3", **anybody).create_bucket(Bucket=BUCKET)
    iam = boto3.client("iam", **anybody)
    iam.create_user(UserName="kontiki")
    iam.put_user_policy(
        UserName="kontiki", PolicyName="s3", PolicyDocument=json.dumps(POLICY)
    )
    key = iam.create_access_key(UserName="kontiki")["AccessKey"]
    # From now on every request has to be signed by a key that it knows.
    reset = f"{url}/moto-api/reset-auth"
    request = urllib.request.Request(reset, data=b"0", headers={"Content-Type": "text/plain"})
    urllib.request.urlopen(request).read()
    told = {"url": url, "id": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    signal.pause()


main()
