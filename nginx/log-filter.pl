#!/usr/bin/perl
# What nginx says on standard error, made fit to be kept. A line about a request ends in the client's address and the
# request's path, and may quote what the client has sent: those parts are left out, and so is any line of unknown form.
# nginx/start.sh puts this behind nginx. Perl, because every Debian has it.
use strict;
use warnings;
$| = 1;

while (my $line = <STDIN>) {
    if ($line =~ /^nginx: \[/) {    # before it serves anybody
        print $line;
        next;
    }
    my ($head, $connection, $text) =
        $line =~ m{^(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d \[[a-z]+\] \d+#\d+: )(\*\d+ )?(.*)} or next;
    if ($connection) {
        $text =~ s/, (?:client|server|request|upstream|host|referrer|login): .*//;
        $text =~ s/"[^"]*(?:"|$)/"..."/g;
        $text =~ s/\d+\.\d+\.\d+\.\d+/(address)/g;
        $text =~ s/\b[0-9a-f]{1,4}:(?::|[0-9a-f]{1,4}:)[0-9a-f:.]*/(address)/g;
        $text =~ s/[^\x20-\x7e]//g;
    }
    print $head, $connection // "", $text, "\n";
}
