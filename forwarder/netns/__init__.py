"""Network namespaces: held by descriptor, entered only by threads made for it, watched for their end."""

from forwarder.netns.namespace import NAMED_DIRECTORY, Netns, named, remove_name
from forwarder.netns.thread import call_in, enter, run_in
from forwarder.netns.watch import NetnsWatch

__all__ = ["NAMED_DIRECTORY", "Netns", "NetnsWatch", "call_in", "enter", "named", "remove_name", "run_in"]
