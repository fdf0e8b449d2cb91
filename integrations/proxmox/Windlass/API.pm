# The control socket of the Windlass daemon: one verb a connection.
#
# Daemons answer HTTP (`POST /v1/VERB`). One that answers this with a line of JSON speaks the older protocol only: a
# request and its replies are a line each. It is asked again in that.

package Windlass::API;

use strict;
use warnings;

use IO::Socket::UNIX ();
use JSON::PP         ();
use Socket           qw(SOCK_STREAM);
use Time::HiRes      qw(time);

# Longest answer that is read, in bytes. The daemon sends no longer one.
use constant ANSWER_MAX => 256 << 20;

# What a call dies with that took longer than it may. What was asked for may still be done.
use constant LATE =>
    "the Windlass daemon does not answer in time; `windlass status` tells whether it waits for stores\n";

my $json = JSON::PP->new->utf8->allow_nonref;

sub new {
    my ($class, $socket) = @_;
    return bless { socket => $socket, http => 1 }, $class;
}

# Runs a verb and returns what it gave. Dies with the daemon's sentence.
sub call {
    my ($self, $verb, $args, $timeout) = @_;

    my ($value, $error) = $self->try_call($verb, $args, $timeout);
    die "$error->{message}\n" if $error;
    return $value;
}

# As `call`, but an answer that is an error is returned: (undef, { kind, message }). It dies when there is no answer. A
# daemon whose client goes away gives up what waits for stores and changes nothing.
sub try_call {
    my ($self, $verb, $args, $timeout) = @_;

    my $deadline = time() + ($timeout // 60);
    if ($self->{http}) {
        my $body = defined($args) ? $json->encode($args) : '';
        my $request = join("\r\n",
            "POST /v1/$verb HTTP/1.1",
            'Host: windlass',
            'Content-Type: application/json',
            'Content-Length: ' . length($body),
            'Connection: close',
            '', $body);
        my $stream = $self->send_request($request, $deadline);
        need($stream, 1, $deadline) or die ended();
        return http_answer($stream, $deadline) if $stream->{bytes} =~ m/^H/;
        $self->{http} = 0;
    }
    my $request = { v => 1, verb => $verb };
    $request->{args} = $args if defined($args);
    return line_answer($self->send_request($json->encode($request) . "\n", $deadline), $deadline);
}

# A connection over which the request was sent, and what has come back so far.
sub send_request {
    my ($self, $bytes, $deadline) = @_;

    my $socket = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => $self->{socket})
        or die "cannot reach the Windlass daemon at $self->{socket}: $! (is it running? systemctl status windlass)\n";
    local $SIG{PIPE} = 'IGNORE';
    while (length($bytes)) {
        wait_until('write', $socket, $deadline);
        my $sent = syswrite($socket, $bytes);
        die "the Windlass daemon ended while it was asked: $!\n" if !defined($sent);
        substr($bytes, 0, $sent, '');
    }
    return { socket => $socket, bytes => '', ended => 0 };
}

sub wait_until {
    my ($what, $socket, $deadline) = @_;

    my $set = '';
    vec($set, fileno($socket), 1) = 1;
    my ($read, $write) = $what eq 'read' ? ($set, undef) : (undef, $set);
    my $left = $deadline - time();
    return if $left > 0 && select($read, $write, undef, $left) > 0;
    die LATE;
}

# Reads what has come. False when the other side has ended.
sub more {
    my ($stream, $deadline) = @_;

    return 0 if $stream->{ended};
    wait_until('read', $stream->{socket}, $deadline);
    my $read = sysread($stream->{socket}, $stream->{bytes}, 1 << 16, length($stream->{bytes}));
    die "the answer of the Windlass daemon was cut off: $!\n" if !defined($read);
    die "the answer of the Windlass daemon is too long\n" if length($stream->{bytes}) > ANSWER_MAX;
    $stream->{ended} = 1 if !$read;
    return $read;
}

# Reads until so many bytes are there. False when the other side ends before.
sub need {
    my ($stream, $bytes, $deadline) = @_;

    while (length($stream->{bytes}) < $bytes) {
        return 0 if !more($stream, $deadline);
    }
    return 1;
}

# Takes a line off, without its end.
sub take_line {
    my ($stream, $deadline) = @_;

    until ($stream->{bytes} =~ m/\n/) {
        more($stream, $deadline) or die ended();
    }
    $stream->{bytes} =~ s/^([^\n]*?)\r?\n//;
    return $1;
}

sub take {
    my ($stream, $bytes, $deadline) = @_;

    need($stream, $bytes, $deadline) or die ended();
    return substr($stream->{bytes}, 0, $bytes, '');
}

sub ended {
    return "the Windlass daemon ended before it answered: it is not known whether this was done; see its log\n";
}

sub decoded {
    my ($text) = @_;

    my $value = eval { $json->decode($text) };
    return $value if ref($value) eq 'HASH';
    die "the answer of the Windlass daemon is not understood: is this plugin of another version?\n";
}

sub http_answer {
    my ($stream, $deadline) = @_;

    my $status = (take_line($stream, $deadline) =~ m!^HTTP/1\.[01] (\d{3})!)[0] // 0;
    my %header;
    while ((my $line = take_line($stream, $deadline)) ne '') {
        $header{ lc($1) } = $2 if $line =~ m/^([^:\s]+):\s*(.*?)\s*$/;
    }
    my $answer = decoded(http_body($stream, \%header, $deadline));
    return ($answer->{value}) if $status == 200;
    return (undef, { kind => $answer->{kind} // '', message => $answer->{message} // "status $status of HTTP" });
}

sub http_body {
    my ($stream, $header, $deadline) = @_;

    return take($stream, $header->{'content-length'}, $deadline) if defined($header->{'content-length'});
    my $body = '';
    if (($header->{'transfer-encoding'} // '') =~ m/chunked/i) {
        while ((my $length = hex((take_line($stream, $deadline) =~ m/^([0-9a-f]{1,8})/i)[0] // '0')) > 0) {
            $body .= take($stream, $length, $deadline);
            take_line($stream, $deadline);
        }
        return $body;
    }
    1 while more($stream, $deadline);
    return $stream->{bytes};
}

# Lines that tell how far it is come first.
sub line_answer {
    my ($stream, $deadline) = @_;

    while (1) {
        my $reply = decoded(take_line($stream, $deadline));
        return ($reply->{result}->{value}) if $reply->{result};
        return (undef, $reply->{error}) if $reply->{error};
    }
}

1;
