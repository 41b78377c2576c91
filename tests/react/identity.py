#!/usr/bin/env python3
"""Stands for an identity provider: makes a key pair, publishes the public half, signs one token.

    identity.py KEY_SET_FILE SUBJECT GROUP...    writes the key set (RFC 7517), prints an RS256 token (RFC 7519)

Standard library only. Makes a new key every time and keeps none: nothing it signs is worth anything elsewhere.
"""

import base64
import hashlib
import json
import secrets
import sys
import time

BITS = 2048
EXPONENT = 65537
LIFE_SECONDS = 3600
ISSUER, AUDIENCE, KEY_ID = "https://id.example", "react", "demo"
# The DER head of a SHA-256 digest (RFC 8017 section 9.2, note 1).
SHA256_HEAD = bytes.fromhex("3031300d060960864801650304020105000420")
SMALL_PRIMES = [n for n in range(3, 2000, 2) if all(n % d for d in range(3, int(n**0.5) + 1, 2))]


def is_prime(number, rounds=40):
    """Miller and Rabin's test."""
    if any(number % prime == 0 for prime in SMALL_PRIMES):
        return False
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(rounds):
        value = pow(secrets.randbelow(number - 3) + 2, odd, number)
        if value in (1, number - 1):
            continue
        for _ in range(twos - 1):
            value = value * value % number
            if value == number - 1:
                break
        else:
            return False
    return True


def prime(bits):
    while True:
        # The two highest bits are set, so that the product of two has all its bits.
        number = secrets.randbits(bits) | 3 << bits - 2 | 1
        if number % EXPONENT != 1 and is_prime(number):
            return number


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number_bytes(number):
    return number.to_bytes((number.bit_length() + 7) // 8, "big")


def sign(text, modulus, private):
    """RSASSA-PKCS1-v1_5 with SHA-256 (RFC 8017 section 8.2.1)."""
    size = BITS // 8
    tail = SHA256_HEAD + hashlib.sha256(text.encode()).digest()
    padded = b"\x00\x01" + b"\xff" * (size - len(tail) - 3) + b"\x00" + tail
    return pow(int.from_bytes(padded, "big"), private, modulus).to_bytes(size, "big")


def main(key_set_file, subject, groups):
    p, q = prime(BITS // 2), prime(BITS // 2)
    modulus, private = p * q, pow(EXPONENT, -1, (p - 1) * (q - 1))
    key = {"kty": "RSA", "kid": KEY_ID, "use": "sig", "alg": "RS256"}
    key |= {"n": encode(number_bytes(modulus)), "e": encode(number_bytes(EXPONENT))}
    with open(key_set_file, "w", encoding="ascii") as file:
        json.dump({"keys": [key]}, file, indent=2)
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "groups": groups}
    claims |= {"iat": now, "exp": now + LIFE_SECONDS}
    head = {"alg": "RS256", "typ": "JWT", "kid": KEY_ID}
    text = ".".join(encode(json.dumps(part).encode()) for part in (head, claims))
    print(f"{text}.{encode(sign(text, modulus, private))}")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
