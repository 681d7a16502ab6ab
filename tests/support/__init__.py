"""Fakes and helpers the whole suite shares."""
